"""Answers that are given again, as clients see them: in every protocol, whole and streamed, and to nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from policies.records import DecisionRecord, LogEntry, SettlementRecord
from policies.registry import build
from tests.http.conftest import Running, chat, engine, followed, logged, serving, settings_for, until

pytestmark = pytest.mark.anyio
ADMIN = {"Authorization": "Bearer sk-admin-of-these-tests"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


class House:
    """A gateway before one engine, with tenants of several tastes."""

    def __init__(self, gateway: Running, asked: ScriptedServer, folder: Path) -> None:
        self.gateway, self.asked, self.folder = gateway, asked, folder
        self.client = httpx.AsyncClient(base_url=gateway.url, timeout=30)

    async def ask(self, body: Any, path: str = "chat/completions", key: str = "one", **headers: str) -> httpx.Response:
        own = {"Authorization": f"Bearer sk-key-of-{key}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        answer = await self.client.post(f"/v1/{path}", json=body, headers=own)
        assert answer.status_code == 200, answer.text
        return answer

    @property
    def calls(self) -> int:
        return len(self.asked.heard)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("answers")
    teams: dict[str, Any] = {"red": {}, "blue": {}}
    keys = [{"secret": f"sk-key-of-{team}", "team": team} for team in teams]
    tenants = {
        "one": {"cache": True, "keys": [{"secret": "sk-key-of-one"}, {"secret": "sk-key-of-uno"}]},
        "two": {"cache": {"ttl": "1h"}, "keys": [{"secret": "sk-key-of-two"}]},
        "off": {"keys": [{"secret": "sk-key-of-off"}]},
        "own": {"cache": {"within": "team"}, "teams": teams, "keys": keys},
    }
    async with AsyncExitStack() as stack:
        only = await stack.enter_async_context(engine(text="All is well here.", usage=USAGE))
        auth = {"admin_key": "sk-admin-of-these-tests"}
        settings = settings_for(folder, {"m": only}, tenants=tenants, auth=auth, policy={"name": "paced"})
        settings["models"][0]["capabilities"] = ["chat", "tools", "completions", "logprobs"]
        found = House(await stack.enter_async_context(serving(folder, settings)), only, folder)
        await stack.enter_async_context(found.client)
        yield found


MESSAGE = [{"role": "user", "content": "Say it."}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": MESSAGE},
    "completions": {"prompt": "Say it.", "max_tokens": 8},
    "responses": {"input": "Say it."},
    "messages": {"messages": MESSAGE, "max_tokens": 64},
}
ID = re.compile(r'"(?:chatcmpl|cmpl|resp|msg)[-_][^"]*"')


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("path", BODIES)
async def test_the_same_request_gets_the_same_answer_for_nothing(house: House, path: str, stream: bool) -> None:
    body = {"model": "auto", "stream": stream, **BODIES[path]}
    first, before = await house.ask(body, path), house.calls
    again = await house.ask(body, path, key="uno")
    assert house.calls == before
    assert "x-pointsman-stored" not in first.headers
    assert again.headers["x-pointsman-stored"].startswith("exact; age=")
    assert again.headers["x-pointsman-model"] == "stored:m"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert ID.sub("id", again.text) == ID.sub("id", first.text)
    assert again.headers["x-pointsman-decision-id"] != first.headers["x-pointsman-decision-id"]
    if not stream:
        assert again.headers["x-pointsman-cost-usd"] == "0"
        assert again.json()["id"] != first.json()["id"]


async def test_a_stream_that_reports_its_cost_reports_none_when_it_is_given_again(house: House) -> None:
    body = chat("and the bill?", stream=True, stream_options={"include_usage": True})
    first, again = await house.ask(body), await house.ask(body)
    assert '"cost":0.' in first.text
    assert '"cost":0,' in again.text
    assert again.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"user": "somebody"}, True),
        ({"metadata": {"a": "b"}}, True),
        ({"routing": {"preference": 0.2}}, True),
        ({"temperature": 0.5}, False),
        ({"max_tokens": 7}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"unknown_to_us": 1}, False),
        ({"model": "m"}, False),
        ({"stream": True}, False),
    ],
)
async def test_what_an_answer_may_follow_from_makes_another_request(house: House, more: Any, same: bool) -> None:
    body = chat(f"One thing and {more}")
    await house.ask(body)
    found = await house.ask({**body, **more})
    assert ("x-pointsman-stored" in found.headers) is same


async def test_a_client_says_whether_it_takes_and_gives(house: House) -> None:
    body = chat("fresh, please")
    await house.ask(body, cache_control="no-store")
    assert "x-pointsman-stored" not in (await house.ask(body)).headers
    assert "x-pointsman-stored" not in (await house.ask(body, cache_control="no-cache")).headers
    assert "x-pointsman-stored" not in (await house.ask(body, cache_control="no-store")).headers
    assert "x-pointsman-stored" in (await house.ask(body)).headers


async def test_nothing_is_given_across_tenants_nor_teams_that_keep_to_themselves(house: House) -> None:
    body = chat("whose is it?")
    for key in ("one", "two", "off", "off", "red", "blue"):
        assert "x-pointsman-stored" not in (await house.ask(body, key=key)).headers
    for key in ("one", "two", "red", "blue"):
        assert "x-pointsman-stored" in (await house.ask(body, key=key)).headers


async def test_what_is_under_way_when_all_is_forgotten_is_not_stored_afterwards(house: House) -> None:
    own = {"Authorization": "Bearer sk-key-of-two"}
    for number in range(5):  # some are charged before they are forgotten, some after
        body = chat(f"forget this one as well, number {number}")
        await house.ask(body, key="two")
        await house.client.delete("/v1/cache", headers=own)
        await asyncio.sleep(0.2)
        assert "x-pointsman-stored" not in (await house.ask(body, key="two")).headers


async def test_a_tenant_and_an_operator_can_have_all_of_it_forgotten(house: House) -> None:
    body = chat("forget it")

    async def is_given(key: str) -> bool:
        return "x-pointsman-stored" in (await house.ask(body, key=key)).headers

    for key in ("two", "one"):
        await until(lambda key=key: is_given(key))
    own = {"Authorization": "Bearer sk-key-of-two"}
    assert (await house.client.delete("/v1/cache", headers=own)).json()["answers"] >= 1
    assert not await is_given("two")
    assert await is_given("one")
    await until(lambda: is_given("two"))
    assert (await house.client.delete("/admin/v1/tenants/two/cache", headers=own)).status_code == 403
    purged = await house.client.delete("/admin/v1/tenants/two/cache", headers=ADMIN)
    assert purged.json() == {"object": "cache.purged", "tenant": "two", "answers": 1}
    assert not await is_given("two")


@pytest.mark.parametrize("judged", ["made", "given again"])
async def test_an_answer_that_was_found_wrong_is_given_to_nobody_again(house: House, judged: str) -> None:
    body = chat(f"is that so? {judged}")
    answers = [await house.ask(body), await house.ask(body)]
    assert "x-pointsman-stored" in answers[1].headers
    of = answers[judged != "made"].json()["id"]
    await house.ask({"response_id": of, "thumbs": "down"}, "feedback")

    async def is_fresh() -> bool:
        return "x-pointsman-stored" not in (await house.ask(body)).headers

    await until(is_fresh)
    assert "x-pointsman-stored" in (await house.ask(body)).headers  # the new one, which nobody found wrong


async def test_it_is_decided_and_logged_as_every_arm_and_what_was_saved_is_reported(house: House) -> None:
    body = chat("what did it save?")
    first, again = await house.ask(body, key="two"), await house.ask(body, key="two")
    shown = (await house.ask(body, "route", key="two")).json()
    arm = next(each for each in shown["candidates"] if each["model"] == "stored:m")
    assert (arm["cost_usd"], arm["list_price"], arm["delay_s"]) == (0.0, {"prompt": "0", "completion": "0"}, 0.0)
    assert arm["probability"] > 0.9
    named = again.headers["x-pointsman-decision-id"]
    entries: list[LogEntry] = []

    async def are_logged() -> bool:
        entries[:] = [entry async for _, entry in logged(house.folder) if entry.decision_id == named]
        return len(entries) == 2

    await until(are_logged)
    record, paid = entries
    assert isinstance(record, DecisionRecord)
    assert isinstance(paid, SettlementRecord)
    drawn = build("paced", record.context.arms).distribute(record.context, record.evidence)
    assert drawn.probabilities.tolist() == record.probabilities.tolist()
    assert record.model == "stored:m"
    assert record.metadata["made_by"] == first.headers["x-pointsman-decision-id"]
    assert (paid.cost, paid.saved) == (0, round(float(first.headers["x-pointsman-cost-usd"]) * 1e9))

    async def is_reported() -> bool:
        said = (await house.client.get("/admin/v1/spend?by=model&tenant=two", headers=ADMIN)).json()["data"]
        line = next((each for each in said if each["model"] == "stored:m"), None)
        return line is not None and line["cost_nanousd"] == 0 and round(line["saved_usd"] * 1e9) >= paid.saved > 0

    await until(is_reported)


def echoing() -> ScriptedServer:
    """An engine whose answer follows from the thing that is asked about."""

    def script(_model: str, body: Any) -> Line:
        said = str(body["messages"][-1]["content"])
        town = said.partition("town of ")[2].partition("?")[0].rstrip(".")
        return Line(text=f"The {town} river.")

    return ScriptedServer(script, models=[{"id": "any", "object": "model"}])


async def test_a_similar_question_gets_a_stored_answer_once_enough_were_right(tmp_path: Path) -> None:
    towns = [
        a + b for a in ("bel", "kor", "mun", "tal", "ven") for b in ("ado", "ima", "ust", "eno", "ora", "ith", "ulk")
    ]
    ways = ("Which river runs through the town of {}?", "Please tell me which river runs through the town of {}.")
    tenants = {"near": {"cache": {"alpha": 0.25}, "keys": [{"secret": "sk-key-of-near"}]}}
    async with echoing() as asked:
        settings = settings_for(tmp_path, {"m": asked}, tenants=tenants)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            client.headers["Authorization"] = "Bearer sk-key-of-near"

            async def ask(text: str) -> httpx.Response:
                return await client.post("/v1/chat/completions", json=chat(text, temperature=0))

            for times, way in enumerate(ways, 1):
                reported = [await ask(way.format(town)) for town in towns]
                assert times > 1 or not any("x-pointsman-stored" in each.headers for each in reported)
                await until(lambda most=times: followed(client, tmp_path, answers=most * len(towns)))
            again = [await ask(f"Hello! Which river runs through the town of {town}? Thanks!") for town in towns]
            given = [each for each in again if each.headers.get("x-pointsman-stored", "").startswith("similar; sure=")]
            assert len(given) > len(towns) / 2  # not all: some are asked all the same, to learn
            said = [each.json()["choices"][0]["message"]["content"] for each in again]
            assert said == [f"The {town} river." for town in towns]
            for other in (
                "Which river does not run through the town of belado?",
                "Which river runs by the town of zyx?",
            ):
                assert "x-pointsman-stored" not in (await ask(other)).headers


@pytest.mark.parametrize("policy", ["paced", "neighbours", "port", "linucb", "cheapest"])
async def test_a_stored_answer_is_given_while_the_engine_that_made_it_is_away(tmp_path: Path, policy: str) -> None:
    tenants = {"one": {"cache": True, "keys": [{"secret": "sk-key-of-one"}]}}
    async with engine(text="All is well here.", usage=USAGE) as only:
        settings = settings_for(tmp_path, {"m": only}, tenants=tenants, policy={"name": policy})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            client.headers["Authorization"] = "Bearer sk-key-of-one"
            first = await client.post("/v1/chat/completions", json=chat("what is there?"))
            assert first.status_code == 200
            await only.stop()

            async def is_refused() -> bool:  # by the health loop, that is
                other = await client.post("/v1/chat/completions", json=chat("and what else?"))
                return other.status_code == 503 and "its backend is down" in other.text

            await until(is_refused)
            again = await client.post("/v1/chat/completions", json=chat("what is there?"))
            assert (again.status_code, again.headers["x-pointsman-model"]) == (200, "stored:m")
            assert again.json()["choices"] == first.json()["choices"]


async def test_what_is_stored_is_encrypted_under_a_key_and_gone_under_another(tmp_path: Path) -> None:
    tenants = {"one": {"cache": True, "keys": [{"secret": "sk-key-of-one"}]}}
    async with engine(text="a very secret answer") as only:

        async def ask(key: str) -> tuple[bool, bytes]:
            settings = settings_for(tmp_path, {"m": only}, tenants=tenants, responses={"key": key})
            async with serving(tmp_path, settings) as gateway, gateway.client() as client:
                client.headers["Authorization"] = "Bearer sk-key-of-one"
                answer = await client.post("/v1/chat/completions", json=chat("what is it?"))
                assert answer.status_code == 200
                files = [path.read_bytes() for path in (tmp_path / "state").glob("pointsman.db*")]
                return "x-pointsman-stored" in answer.headers, b"".join(files)

        keys = [Fernet.generate_key().decode() for _ in range(2)]
        found = [await ask(key) for key in (keys[0], keys[0], keys[1])]
    assert [given for given, _ in found] == [False, True, False]
    assert not any(b"a very secret" in data for _, data in found)
