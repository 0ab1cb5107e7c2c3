"""An operator teaches a running gateway labelled queries: the embedder is fitted on them, and they can be forgotten."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import Running, chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio
ADMIN = "admin-key-of-the-test"
TOLD = ("model", "quality", "sigma", "cost_usd", "score", "probability")
TOPICS = {"sonnet": ("small", 0.9, 0.1), "integral": ("large", 0.1, 0.9)}
WORDS = [f"{first}{second}" for first in ("am", "bir", "ce", "du", "em", "fi") for second in ("ber", "ch", "dar")]


def write_trace(path: Path, rows: int = 420, **change: Any) -> Path:
    """Half of the queries are better answered by one model, half by the other."""
    with path.open("w") as file:
        for i in range(rows):
            topic = list(TOPICS)[i % 2]
            _, small, large = TOPICS[topic]
            words = " ".join(WORDS[(i * k) % len(WORDS)] for k in (1, 3, 5))
            row = {"prompt": f"Write about the {topic} of {words} {i}", "score:a": small, "score:large": large}
            row |= {"cost:a": 1e-6, "cost:large": 2e-6} | (change if i == 100 else {})
            file.write(json.dumps(row) + "\n")
    return path


async def learn(gateway: Running, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pointsman", "learn", "--url", gateway.url, "--key", ADMIN, *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def route(client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    asked = chat(text) | {"routing": {"preference": 1.0}}
    found: dict[str, Any] = (await client.post("/v1/route", json=asked)).json()
    return found


async def histories(gateway: Running) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {ADMIN}"}) as admin:
        found: list[dict[str, Any]] = (await admin.get("/admin/v1/histories")).json()["data"]
        return found


MORE: dict[str, Any] = {"policy": {"name": "neighbours"}, "auth": {"admin_key": ADMIN}}


async def test_what_an_operator_teaches_is_learned_survives_a_restart_and_is_forgotten(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "public.jsonl")
    async with engine(text="one") as small, engine(text="two") as large:
        settings = settings_for(tmp_path, {"small": small, "large": large}, **MORE)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            code, said = await learn(gateway, str(trace), "--map", "a=small")
            assert (code, "420 new rows" in said, "public is learned" in said) == (0, True, True), said
            for topic, (best, *_) in TOPICS.items():
                found = await route(client, f"a question about the {topic}")
                assert found["model"] == best
                assert {each["history"] for each in found["neighbours"]} == {"public"}
            code, said = await learn(gateway, str(trace), "--map", "a=small")
            assert (code, "0 new rows" in said) == (0, True), said
            before = [await route(client, f"of {topic}") for topic in (*TOPICS, "something else")]
        shutil.rmtree(tmp_path / "state" / "embedder")  # a lost file is fetched again
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            again = [await route(client, f"of {topic}") for topic in (*TOPICS, "something else")]
            assert [seen(each) for each in again] == [seen(each) for each in before]
            assert [(each["name"], each["rows"]) for each in await histories(gateway)] == [("public", 420)]
            assert await learn(gateway, "--forget", "public") == (0, "420 rows forgotten\n")

            async def forgotten() -> bool:
                return not (await route(client, "the sonnet"))["neighbours"]

            await until(forgotten)
            assert await histories(gateway) == []
            async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {ADMIN}"}) as admin:
                kinds = [each["kind"] for each in (await admin.get("/admin/v1/audit")).json()["data"]]
            assert [kind for kind in kinds if kind.startswith("history")] == [
                "history.learned",
                "history.learned",
                "history.forgotten",
            ]


async def test_what_was_forgotten_is_gone_from_the_policy_too_where_too_little_is_left_to_fit(tmp_path: Path) -> None:
    """The policy's own fit is of the rows that are there: one that knows nothing of them has to go with them."""
    trace = tmp_path / "public.jsonl"
    labels = {"score:small": 0.0, "score:large": 1.0, "cost:small": 1e-6, "cost:large": 2e-6}
    rows = [{"prompt": f"Write about the {word} of {other}"} | labels for word in WORDS for other in WORDS]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with engine(text="one") as small, engine(text="two") as large:
        settings = settings_for(tmp_path, {"small": small, "large": large}, **MORE | {"policy": {"name": "paced"}})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            for i in range(20):
                asked = chat(f"question {i}") | {"model": ("small", "large")[i % 2]}
                answer = await client.post("/v1/chat/completions", json=asked)
                judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 0.5}
                assert (await client.post("/v1/feedback", json=judged)).json()["recorded"]
            code, said = await learn(gateway, str(trace))
            assert code == 0, said

            async def is_bad(model: str) -> bool:
                found = (await route(client, "Write about the weather"))["candidates"]
                return float(next(each["quality"] for each in found if each["model"] == model)) < 0.25

            await until(lambda: is_bad("small"), within_s=60)
            assert (await learn(gateway, "--forget", "public"))[0] == 0

            async def is_forgotten() -> bool:
                return not await is_bad("small")

            await until(is_forgotten, within_s=60)


def seen(found: dict[str, Any]) -> object:
    return [[each[key] for key in TOLD] for each in found["candidates"]], found["neighbours"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"score:large": 1.5}, "line 101: score:large is 1.5"),
        ({"cost:large": -1e-9}, "line 101: cost:large is -1e-09"),
        ({"score:large": float("nan")}, "line 101: score:large is nan"),
        ({"score:b": 0.5, "cost:b": 0.0}, "line 101: this gateway has no model b"),
        ({"prompt": "Write about the sonnet of amber amber amber 0"}, "line 101: the prompt of line 1 again"),
        ({"prompt": ""}, "line 101: there is no prompt"),
    ],
)
async def test_rows_that_do_not_fit_are_refused_with_their_line(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    trace = write_trace(tmp_path / "public.jsonl", 120, **change)
    async with engine(text="one") as small, engine(text="two") as large:
        settings = settings_for(tmp_path, {"small": small, "large": large}, **MORE)
        async with serving(tmp_path, settings) as gateway:
            code, said = await learn(gateway, str(trace), "--map", "a=small")
            assert (code != 0, why in said.replace("\n", " ")) == (True, True), said
            assert await histories(gateway) == []


async def test_long_prompts_are_sent_in_as_many_requests_as_they_take(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    lines = ["prompt,score:small,cost:small", *[f"{i} {'word ' * 200_000},0.5,0.001" for i in range(20)]]
    trace.write_text("\n".join(lines))
    async with engine(text="one") as small:
        async with serving(tmp_path, settings_for(tmp_path, {"small": small}, **MORE)) as gateway:
            code, said = await learn(gateway, str(trace))
            assert (code, "20 new rows" in said) == (0, True), said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("prompt,score:small,score:small,cost:small\nhi,0.1,0.9,0\n", "has the column score:small twice"),
        ("prompt,score:small,cost:small\n", "has no rows"),
        ("", "has no rows"),
    ],
)
async def test_a_file_that_says_nothing_or_two_things_is_refused_before_anything_is_sent(
    tmp_path: Path, text: str, why: str
) -> None:
    trace = tmp_path / "odd.csv"
    trace.write_text(text)
    async with engine(text="one") as small:
        async with serving(tmp_path, settings_for(tmp_path, {"small": small}, **MORE)) as gateway:
            code, said = await learn(gateway, str(trace))
            assert (code, why in said.replace("\n", " ")) == (2, True), said


async def test_only_admin_keys_teach_and_a_clients_lies_are_refused(tmp_path: Path) -> None:
    row = {"line": 1, "prompt": "p", "scores": {"small": 0.5}, "costs": {"small": 0.0}}
    async with engine(text="one") as small:
        settings = settings_for(tmp_path, {"small": small}, **MORE)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            at = "/admin/v1/histories/h"
            assert (await client.post(f"{at}/rows", json={"rows": [row]})).status_code == 403
            admin = {"Authorization": f"Bearer {ADMIN}"}
            lie: dict[str, Any]
            for lie in (
                {"scores": {"small": 1.1}},
                {"costs": {"small": -1.0}},
                {"costs": {}},
                {"scores": {}, "costs": {}},
                {"scores": {"none": 0.1}, "costs": {"none": 0.1}},
                {"line": -1},
                {"embedding": "AAAA"},
            ):
                answer = await client.post(f"{at}/rows", json={"rows": [row | lie]}, headers=admin)
                assert answer.status_code == 400, answer.text
            twice = {"rows": [row, row | {"line": 2}]}
            answer = await client.post(f"{at}/rows", json=twice, headers=admin)
            assert (answer.status_code, "line 2: its prompt is that of line 1" in answer.text) == (400, True)
            assert (await client.post(at, headers=admin)).status_code == 404  # nothing of the refused was kept
            assert (await client.delete(at, headers=admin)).status_code == 404
            assert (await client.post(f"{at}/rows", json={"rows": [row]}, headers=admin)).json()["stored"] == 1
            for other in ({"line": 2}, {"scores": {"small": 0.7}}):
                answer = await client.post(f"{at}/rows", json={"rows": [row | other]}, headers=admin)
                assert (answer.status_code, "in h already" in answer.text) == (400, True)


async def test_another_default_policy_reads_what_was_taught_under_one_that_looks_at_no_features(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "public.jsonl")
    async with engine(text="one") as small, engine(text="two") as large:
        settings = settings_for(tmp_path, {"small": small, "large": large}, **MORE)
        async with serving(tmp_path, settings) as gateway:
            assert (await learn(gateway, str(trace), "--map", "a=small"))[0] == 0
        async with serving(tmp_path, settings | {"policy": {"name": "paced"}}) as gateway, gateway.client() as client:

            async def told() -> list[float]:
                found = await route(client, "Write about the sonnet of amber")
                assert "candidates" in found, found
                return [each["quality"] for each in found["candidates"]]

            first = await told()

            async def is_fitted() -> bool:
                return await told() != first

            await until(is_fitted, within_s=60)
            asked = await client.post("/v1/chat/completions", json=chat("Write about the sonnet of birch"))
            assert asked.status_code == 200, asked.text
