"""A gateway over its life: it reloads, scales to processes, lets go of engines and stops without dropping streams."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio


async def spent(gateway: Running, client: httpx.AsyncClient) -> float:
    """USD counted by /metrics, over all models."""
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("pointsman_cost_usd_total{")]
    return sum(float(line.split()[-1]) for line in lines)


async def test_a_model_joins_and_another_is_repriced_while_a_stream_goes_on(tmp_path: Path) -> None:
    async with engine(text="word " * 40, piece_delay_s=0.02) as slow, engine(text="quick") as quick:
        before = settings_for(tmp_path, {"slow": slow})
        async with serving(tmp_path, before) as gateway, gateway.client() as client:
            async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
                events = stream.aiter_lines()
                await anext(events)
                gateway.rewrite(settings_for(tmp_path, {"quick": quick, "slow": slow}))
                await until(lambda: listed(client, "quick"))
                rest = [line async for line in events]
            assert rest[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in rest
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.headers["x-pointsman-model"] == "quick"


async def listed(client: httpx.AsyncClient, name: str) -> bool:
    return name in [model["id"] for model in (await client.get("/v1/models")).json()["data"]]


async def test_sighup_takes_in_the_settings_even_where_the_file_is_not_watched(tmp_path: Path) -> None:
    async with engine() as one, engine() as two:
        quiet = {"reload": {"watch": False, "every_s": 0.1}}
        async with (
            serving(tmp_path, settings_for(tmp_path, {"one": one}, **quiet)) as gateway,
            gateway.client() as client,
        ):
            gateway.rewrite(settings_for(tmp_path, {"one": one, "two": two}, **quiet))
            gateway.signal(signal.SIGHUP)
            await until(lambda: listed(client, "two"))


async def test_a_settings_file_that_breaks_while_running_changes_nothing(tmp_path: Path) -> None:
    async with engine() as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            gateway.rewrite(settings_for(tmp_path, {"one": one}, polcy={"name": "best"}))
            await until(lambda: "polcy" in gateway.log.read_text())
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_a_tenant_of_the_admin_api_that_the_file_has_too_stops_the_reload(tmp_path: Path) -> None:
    async with engine() as one, engine() as two:
        admin = {"auth": {"admin_key": "sk-admin-0123456789"}}
        as_admin = {"authorization": "Bearer sk-admin-0123456789"}
        async with (
            serving(tmp_path, settings_for(tmp_path, {"one": one}, **admin)) as gateway,
            gateway.client() as client,
        ):
            made = await client.put("/admin/v1/tenants/acme", json={"budgets": ["5 USD per day"]}, headers=as_admin)
            assert made.status_code == 200, made.text
            both = {"tenants": {"acme": {"budgets": ["9 USD per day"]}}} | admin
            gateway.rewrite(settings_for(tmp_path, {"one": one, "two": two}, **both))
            said = "tenants.acme: the admin API has a tenant 'acme' with terms of its own too"
            await until(lambda: said in gateway.log.read_text())
            assert not await listed(client, "two")
            bare = {"tenants": {"beta": {"budgets": ["9 USD per day"]}}} | admin
            gateway.rewrite(settings_for(tmp_path, {"one": one, "two": two}, **bare))
            await until(lambda: listed(client, "two"))


async def test_a_client_that_hangs_up_stops_the_engine_and_is_charged_for_what_came(tmp_path: Path) -> None:
    async with engine(text="word " * 500, piece_delay_s=0.02) as slow:
        async with serving(tmp_path, settings_for(tmp_path, {"slow": slow})) as gateway, gateway.client() as client:
            async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
                await anext(stream.aiter_lines())
            await asyncio.wait_for(slow.hung_up.wait(), 10)
            await until(lambda: charged(gateway, client))


async def charged(gateway: Running, client: httpx.AsyncClient) -> bool:
    return await spent(gateway, client) > 0


async def test_a_client_that_hangs_up_while_waiting_stops_the_engine(tmp_path: Path) -> None:
    async with engine(text="late", delay_s=30) as slow:
        async with serving(tmp_path, settings_for(tmp_path, {"slow": slow})) as gateway, gateway.client() as client:
            asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=chat()))
            await asyncio.wait_for(slow.hearing.wait(), 10)
            asking.cancel()
            await asyncio.wait_for(slow.hung_up.wait(), 10)


async def test_several_processes_share_keys_budgets_and_what_is_learned(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one}, policy={"name": "neighbours"}, log={"keep_text": True})
        async with serving(tmp_path, settings, "--workers", "2") as gateway:

            async def ask(i: int) -> None:
                async with gateway.client() as client:  # a connection of its own, so that both processes answer
                    answer = await client.post("/v1/chat/completions", json=chat(f"question {i}"))
                    judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 1.0}
                    assert (await client.post("/v1/feedback", json=judged)).json()["recorded"]

            await asyncio.gather(*(ask(i) for i in range(40)))

            async def everybody_knows() -> bool:
                found = []
                for _ in range(8):
                    async with gateway.client() as client:
                        found.append(
                            len((await client.post("/v1/route", json=chat("question 3"))).json()["neighbours"])
                        )
                return min(found) == 5

            await until(everybody_knows)


async def test_a_stop_lets_open_streams_end(tmp_path: Path) -> None:
    async with engine(text="word " * 30, piece_delay_s=0.03) as slow:
        async with serving(tmp_path, settings_for(tmp_path, {"slow": slow})) as gateway, gateway.client() as client:
            async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
                events = stream.aiter_lines()
                await anext(events)
                gateway.signal(signal.SIGTERM)
                assert "data: [DONE]" in [line async for line in events]


async def test_what_was_spent_and_learned_survives_kill_9(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one}, log={"keep_text": True})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat("remember me"))
            judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 0.25}
            await client.post("/v1/feedback", json=judged)
            gateway.process.kill()
            gateway.process.wait()
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            again = (await client.post("/v1/route", json=chat("remember me"))).json()
            assert again["neighbours"][0]["text"] == "remember me"
            assert again["neighbours"][0]["scores"] == {"one": 0.25}
            assert (await client.post("/v1/feedback", json=judged)).json()["recorded"] is False


async def test_feedback_is_idempotent_and_a_contradiction_needs_replace(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "thumbs": "up"}
            first, second = [(await client.post("/v1/feedback", json=judged)).json() for _ in range(2)]
            assert (first["recorded"], second["recorded"]) == (True, False)
            contradicted = await client.post("/v1/feedback", json=judged | {"thumbs": "down"})
            assert (contradicted.status_code, contradicted.json()["error"]["code"]) == (409, "conflict")
            replaced = await client.post("/v1/feedback", json=judged | {"thumbs": "down", "replace": True})
            assert replaced.json()["recorded"] is True
            by_response = {"response_id": answer.json()["id"], "score": 0.0}
            assert (await client.post("/v1/feedback", json=by_response)).json()["recorded"] is False
            unknown = await client.post("/v1/feedback", json={"decision_id": "dec-none", "score": 1})
            assert unknown.status_code == 404


async def test_usage_and_vendor_fields_come_through_as_the_engine_sent_them(tmp_path: Path) -> None:
    async with engine(text="fine", fields={"vendor": {"deep": [1, 2.50]}}) as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat(top_k=7, vendor_in={"x": 1}))
            assert answer.json()["vendor"] == {"deep": [1, 2.50]}
            sent = one.heard[-1].json()
            assert (sent["top_k"], sent["vendor_in"]) == (7, {"x": 1})


async def test_an_engine_that_comes_back_is_used_again(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            await one.stop()
            broken = await client.post("/v1/chat/completions", json=chat())
            assert broken.status_code in (502, 503)
            await until(lambda: answers(client, "/ready", 503))
            await one.start()
            await until(lambda: answers(client, "/ready", 200))
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the other side hangs up."""
    try:
        await reader.read()
    finally:
        writer.close()


async def test_who_is_ready_serves_though_another_engine_says_nothing_for_long(tmp_path: Path) -> None:
    """A look at all engines takes as long as its slowest; who is ready must not know more than who serves."""
    mute = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    async with engine(text="fine") as one, mute:
        settings = settings_for(tmp_path, {"one": one})
        port = mute.sockets[0].getsockname()[1]
        settings["backends"]["mute"] = {"kind": "vllm", "url": f"http://127.0.0.1:{port}", "discover": True}
        await one.stop()
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            assert await answers(client, "/ready", 503)
            await one.start()
            await until(lambda: answers(client, "/ready", 200), within_s=60)
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_who_cannot_write_its_ledger_is_not_ready(tmp_path: Path) -> None:
    """What is reserved has to be written, and to be read is no proof of that."""
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            assert await answers(client, "/ready", 200)
            (store,) = tmp_path.rglob("*.db")
            store.rename(store.with_name("elsewhere"))
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 503
            assert (await client.get("/ready")).json()["missing"] == {"store": "unavailable"}
            store.with_name("elsewhere").rename(store)
            assert await answers(client, "/ready", 200)
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def answers(client: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await client.get(path)).status_code == status


async def test_a_key_limited_to_some_models_sees_and_gets_only_those(tmp_path: Path) -> None:
    async with engine(text="small") as small, engine(text="large") as large:
        key = {"secret": "sk-test-large-only", "allowed_models": ["large"]}
        settings = settings_for(tmp_path, {"small": small, "large": large}, tenants={"acme": {"keys": [key]}})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            client.headers["Authorization"] = "Bearer sk-test-large-only"
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.headers["x-pointsman-model"] == "large"
            refused = await client.post("/v1/chat/completions", json=chat() | {"model": "small"})
            assert refused.status_code == 400
            assert "key does not allow" in refused.json()["error"]["message"]
            assert not await listed(client, "small")


async def test_a_broken_stream_ends_with_an_error_event(tmp_path: Path) -> None:
    async with (
        engine(text="one two three four", trouble="reset", trouble_after=2) as bad,
        engine(text="never") as other,
    ):
        settings = settings_for(tmp_path, {"bad": bad, "other": other})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=True))
            events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
            assert json.loads(events[-1])["error"]["code"] == "stream_broken"
            assert not other.heard


async def test_a_model_whose_engines_have_no_room_is_passed_over_while_another_is_free(tmp_path: Path) -> None:
    async with engine(text="full") as full, engine(text="free") as free:
        full.metrics = "vllm:num_requests_running 8\nvllm:num_requests_waiting 5\nvllm:kv_cache_usage_perc 0.99\n"
        async with serving(tmp_path, settings_for(tmp_path, {"full": full, "free": free})) as gateway:
            async with gateway.client() as client:

                async def passed_over() -> bool:
                    explained = (await client.post("/v1/route", json=chat())).json()
                    return explained["model"] == "free" and "engines are full" in str(explained["candidates"])

                await until(passed_over)
                pinned = await client.post("/v1/chat/completions", json=chat() | {"model": "full"})
                assert pinned.json()["choices"][0]["message"]["content"] == "full"


async def test_a_width_nobody_admitted_gets_no_traffic_until_there_is_a_verdict(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        one.models = [{"id": "m", "object": "model", "anyprec_bits": [3]}]
        settings = settings_for(tmp_path, {}, default_price={"prompt": 1, "completion": 1})
        settings["backends"] = {"engine": {"kind": "vllm", "url": one.url, "discover": True}}
        settings["auth"] = {"admin_key": "sk-admin-0123456789"}
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            client.headers["authorization"] = "Bearer sk-admin-0123456789"
            refused = await client.post("/v1/chat/completions", json=chat() | {"model": "m@3bit"})
            assert "pointsman admit m@3bit" in refused.json()["error"]["message"]
            assert ("m@3bit", False) in await widths_of(client)
            verdicts = tmp_path / "state" / "admissions"
            verdicts.mkdir()
            (verdicts / "m@3bit.json").write_text('{"admitted": true}')
            await until(lambda: serves(client, "m@3bit"))
            assert one.heard[-1].json()["vllm_xargs"] == {"anyprec_bits": 3}
            assert ("m@3bit", True) in await widths_of(client)


async def widths_of(client: httpx.AsyncClient) -> list[tuple[str, bool]]:
    """(model, whether it was admitted), as an operator is told."""
    found = await client.get("/admin/v1/engines")
    return [(each["model"], each["admitted"]) for backend in found.json()["data"] for each in backend["serves"]]


async def serves(client: httpx.AsyncClient, name: str) -> bool:
    return (await client.post("/v1/chat/completions", json=chat() | {"model": name})).status_code == 200


async def test_a_database_that_was_taken_away_refuses_requests_by_name_until_it_is_back(tmp_path: Path) -> None:
    async with engine(text="well") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            database = tmp_path / "state" / "pointsman.db"
            database.rename(tmp_path / "elsewhere")
            answer = await client.post("/v1/chat/completions", json=chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert "pointsman.db is not the file that was opened" in answer.json()["error"]["message"]
            (tmp_path / "elsewhere").rename(database)
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_an_engine_that_lists_a_hundred_thousand_models_does_not_stop_the_others(tmp_path: Path) -> None:
    cards = [{"id": f"m{i}", "object": "model", "parent": "m0" if i else None} for i in range(100_000)]
    line = always(Line(text="well"))
    async with engine(text="fine") as one, ScriptedServer(line, models=cards) as lister:
        settings = settings_for(tmp_path, {"one": one}, default_price={"prompt": 5, "completion": 5})
        settings["backends"]["many"] = {"kind": "vllm", "url": lister.url, "discover": True}
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            for model in ("one", "auto", "m1"):
                answer = await client.post("/v1/chat/completions", json=chat() | {"model": model})
                assert answer.status_code == 200, answer.text
            listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
            assert {"one", "m0", "m1"} < set(listed)
            assert len(listed) < 1_100
        assert gateway.log.read_text().count("many lists more than 1000 models") == 1


async def test_monitors_that_ask_by_head_are_told_how_it_is(tmp_path: Path) -> None:
    async with engine(text="well") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway, gateway.client() as client:
            for path in ("/health", "/ready", "/health/liveliness", "/health/readiness"):
                asked = await client.head(path)
                assert (asked.status_code, asked.content) == (200, b"")
                assert (await client.get(path)).status_code == 200
