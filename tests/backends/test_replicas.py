"""Several engines behind one name: who serves, who is spared, and what a client sees when one falls over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from backends.discovery import Load
from backends.errors import Failed, Overloaded, Refused
from backends.openai import OpenAIBackend, retry_after_s
from backends.pool import Replicas, replica_of
from backends.scripted import Line, Script, Scripted, always, in_turn
from backends.types import Limits
from backends.whole import read_all
from benchmarks.scripted_server import ScriptedServer
from tests.backends.conftest import asked, contents, streamed
from tests.backends.test_breaker import Clock

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def fleet(
    scripts: Sequence[Script | Line], *, most: int | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[list[ScriptedServer], Replicas]]:
    """Scripted servers and the replicas in front of them."""
    clock = clock or Clock()
    async with AsyncExitStack() as stack:
        lines = [always(script) if isinstance(script, Line) else script for script in scripts]
        servers = [await stack.enter_async_context(ScriptedServer(script)) for script in lines]
        replicas = Replicas(
            [
                replica_of(
                    OpenAIBackend(server.url, name=f"engine-{number}", limits=Limits(first_byte_s=2.0)),
                    name=f"engine-{number}",
                    most=most,
                    clock=clock,
                )
                for number, server in enumerate(servers)
            ],
            name="fleet",
            clock=clock,
        )
        stack.push_async_callback(replicas.aclose)
        yield servers, replicas


async def test_equals_take_turns() -> None:
    async with fleet([Line(), Line(), Line()]) as (servers, replicas):
        for _ in range(9):
            await read_all(await replicas.send(asked()))
        assert [len(server.heard) for server in servers] == [3, 3, 3]


async def test_the_engine_with_fewer_requests_under_way_serves() -> None:
    async with fleet([Line(), Line()]) as (servers, replicas):
        held = [streamed(await replicas.send(asked(stream=True))) for _ in range(6)]
        assert [len(server.heard) for server in servers] == [3, 3]
        for reply in held:
            await reply.aclose()
        assert [replica.in_flight for replica in replicas.replicas] == [0, 0]


async def test_what_an_engine_reports_of_its_queue_counts() -> None:
    async with fleet([Line(), Line()]) as (servers, replicas):
        replicas.replicas[0].watch.load = Load(running=4, waiting=20)
        for _ in range(8):
            await read_all(await replicas.send(asked()))
        assert [len(server.heard) for server in servers] == [0, 8]


async def test_an_engine_with_a_full_cache_is_spared() -> None:
    async with fleet([Line(), Line()]) as (servers, replicas):
        replicas.replicas[0].watch.load = Load(kv_usage=0.99)
        for _ in range(4):
            await read_all(await replicas.send(asked()))
        assert [len(server.heard) for server in servers] == [0, 4]


async def test_a_session_keeps_its_engine() -> None:
    async with fleet([Line(text=f"engine {number}") for number in range(4)]) as (_, replicas):
        seen: dict[str, set[str]] = {}
        for _ in range(5):
            for session in (f"session-{number}" for number in range(20)):
                answer = contents(await read_all(await replicas.send(asked(stream=True, session=session))))
                seen.setdefault(session, set()).add(answer)
    assert all(len(engines) == 1 for engines in seen.values())
    assert len(set().union(*seen.values())) == 4


async def test_only_the_sessions_of_a_lost_engine_move() -> None:
    sessions = [f"session-{number}" for number in range(40)]
    async with fleet([Line(text=f"engine {number}") for number in range(4)]) as (servers, replicas):

        async def homes() -> dict[str, str]:
            return {s: contents(await read_all(await replicas.send(asked(stream=True, session=s)))) for s in sessions}

        before = await homes()
        await servers[2].stop()
        after = await homes()
    assert {s for s in sessions if before[s] != after[s]} == {s for s in sessions if before[s] == "engine 2"}


async def test_a_session_leaves_an_engine_whose_queue_costs_more_than_its_cache_saves() -> None:
    async with fleet([Line(), Line()]) as (servers, replicas):
        await read_all(await replicas.send(asked(session="s")))
        home = next(number for number, server in enumerate(servers) if server.heard)
        replicas.replicas[home].watch.load = Load(waiting=50)
        await read_all(await replicas.send(asked(session="s")))
        assert len(servers[1 - home].heard) == 1


def talked(system: str, *said: str) -> Any:
    """A request with these messages, in turn of a user and a model."""
    roles = ["user", "assistant"] * len(said)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    fields = asked().fields
    return replace(asked(), fields={**fields, "messages": msgspec.Raw(msgspec.json.encode(messages))})


async def served_by(replicas: Replicas, request: Any) -> str:
    return (await replicas.send(request)).report.served_by


async def test_a_long_conversation_without_a_name_keeps_its_engine() -> None:
    async with fleet([Line()] * 4) as (_, replicas):
        homes: dict[int, set[str]] = {}
        for number in range(20):
            said = [f"{number} " * 600]
            for _ in range(4):
                homes.setdefault(number, set()).add(await served_by(replicas, talked("", *said)))
                said += ["All is well.", "and then?"]
    assert all(len(engines) == 1 for engines in homes.values())
    assert len(set.union(*homes.values())) == 4


async def test_conversations_with_a_long_system_text_share_two_engines_evenly() -> None:
    async with fleet([Line()] * 6) as (_, replicas):
        for system in ("a" * 2000, "b" * 2000, "c" * 2000):
            engines = Counter([await served_by(replicas, talked(system, f"question {n}")) for n in range(60)])
            assert len(engines) == 2
            assert min(engines.values()) >= 15


async def test_short_requests_take_turns_and_a_crowded_home_is_left() -> None:
    async with fleet([Line()] * 3) as (servers, replicas):
        for number in range(9):
            await served_by(replicas, talked("", f"short {number}"))
        assert [len(server.heard) for server in servers] == [3, 3, 3]
        request = talked("", "long " * 600)
        home = await served_by(replicas, request)
        crowded = next(each for each in replicas.replicas if each.name == home)
        crowded.watch.load = Load(waiting=50)
        assert await served_by(replicas, request) != home
        crowded.watch.load = Load()
        assert await served_by(replicas, request) == home


@pytest.mark.parametrize("trouble", ["reset", "500", "html", "garbage", "busy"])
@pytest.mark.parametrize("stream", [False, True])
async def test_another_engine_answers_where_one_fails_before_the_first_byte(trouble: str, stream: bool) -> None:
    bad = Line(text="bad", trouble=trouble)  # type: ignore[arg-type]
    async with fleet([bad, Line(text="all of it")]) as (_, replicas):
        answers = [await read_all(await replicas.send(asked(stream=stream))) for _ in range(4)]
    if stream:
        assert [contents(answer) for answer in answers] == ["all of it"] * 4
    else:
        assert all(b"all of it" in answer for answer in answers)


async def test_no_byte_comes_twice_and_none_is_missing_while_engines_die_and_return() -> None:
    text = " ".join(str(number) for number in range(30))
    flaky = in_turn([Line(text=text, trouble="reset"), Line(text=text), Line(text=text, trouble="500")] * 20)
    broken = in_turn([Line(text=text, trouble="half chunk", trouble_after=7), Line(text=text)] * 20)
    async with fleet([flaky, broken, Line(text=text)]) as (_, replicas):

        async def one() -> str:
            reply = await replicas.send(asked(stream=True))
            answer = contents(await read_all(reply))
            assert (answer == text) == (reply.report.failure is None)
            return answer

        answers = await asyncio.gather(*(one() for _ in range(60)))
    assert all(text.startswith(answer) for answer in answers)
    assert Counter(answers)[text] >= 40


async def test_a_clients_own_mistake_is_told_once_and_trips_nothing() -> None:
    async with fleet([Line(trouble="refuse"), Line(trouble="refuse")]) as (servers, replicas):
        for _ in range(12):
            with pytest.raises(Refused):
                await replicas.send(asked())
        assert sum(len(server.heard) for server in servers) == 12
        assert set(replicas.states().values()) == {"closed"}


async def test_an_engine_that_keeps_failing_is_left_alone_then_tried_once() -> None:
    clock = Clock()
    async with fleet([Line(trouble="500"), Line()], clock=clock) as (servers, replicas):
        for _ in range(20):
            await read_all(await replicas.send(asked()))
        assert len(servers[0].heard) == 5
        assert replicas.states() == {"engine-0": "open", "engine-1": "closed"}
        clock.now += 15
        servers[0].script = always(Line())
        for _ in range(4):
            await read_all(await replicas.send(asked()))
        assert replicas.states() == {"engine-0": "closed", "engine-1": "closed"}


async def test_streams_that_keep_breaking_midway_open_the_breaker() -> None:
    async with fleet([Line(text="one two", trouble="reset", trouble_after=1)]) as (_, replicas):
        for _ in range(5):
            await read_all(await replicas.send(asked(stream=True)))
        assert replicas.states() == {"engine-0": "open"}
        assert replicas.is_banned


async def test_a_banned_engine_is_asked_where_there_is_no_other_and_an_answer_opens_it() -> None:
    clock = Clock()
    async with fleet([Line(trouble="500")], clock=clock) as (servers, replicas):
        for _ in range(40):
            with pytest.raises(Failed):
                await replicas.send(asked())
        assert len(servers[0].heard) == 40
        assert replicas.is_banned
        clock.now += 16
        assert not replicas.is_banned  # what failed while it was banned has not made the ban longer
        with pytest.raises(Failed):
            await replicas.send(asked())
        assert replicas.is_banned
        servers[0].script = always(Line())
        await read_all(await replicas.send(asked()))
        assert replicas.states() == {"engine-0": "closed"}


async def test_a_busy_engine_makes_its_asker_wait_and_nobody_else() -> None:
    def busy_for_mallory(_model: str, body: Mapping[str, Any]) -> Line:
        return Line(trouble="busy", retry_after_s=3000) if body.get("user") == "mallory" else Line()

    async with fleet([busy_for_mallory]) as (servers, replicas):
        for _ in range(50):
            with pytest.raises(Overloaded) as raised:
                await replicas.send(asked(body={"user": "mallory"}))
            assert (raised.value.retry_after_s, raised.value.limited) == (3000, True)
            await read_all(await replicas.send(asked()))
        assert len(servers[0].heard) == 100
        assert replicas.states() == {"engine-0": "closed"}


async def test_a_busy_engine_is_spared_for_a_while_where_there_is_another() -> None:
    clock = Clock()
    async with fleet([Line(trouble="busy", retry_after_s=20), Line()], clock=clock) as (servers, replicas):
        for _ in range(20):
            await read_all(await replicas.send(asked(session="s")))
            await read_all(await replicas.send(asked()))
        assert len(servers[0].heard) <= 1
        clock.now += 20
        for _ in range(4):
            await read_all(await replicas.send(asked()))
        assert len(servers[0].heard) <= 2


@pytest.mark.parametrize("said", ["1e999", "-1e999", "nan", "1e18", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "soon", ""])
def test_an_engine_that_lies_about_when_to_come_back_is_believed_for_an_hour_at_most(said: str) -> None:
    wait_s = retry_after_s(said, 1.8e9)
    assert wait_s is None or 0.0 <= wait_s <= 3600.0


async def test_no_engine_gets_more_requests_at_once_than_its_cap() -> None:
    async with fleet([Line(), Line()], most=2) as (servers, replicas):
        held = [streamed(await replicas.send(asked(stream=True))) for _ in range(4)]
        with pytest.raises(Overloaded, match="cap"):
            await replicas.send(asked(stream=True))
        await held[0].aclose()
        held.append(streamed(await replicas.send(asked(stream=True))))
        assert sum(len(server.heard) for server in servers) == 5
        for reply in held:
            await reply.aclose()


async def test_a_client_who_leaves_says_nothing_against_an_engine() -> None:
    async with fleet([Line(trouble="hang")]) as (servers, replicas):
        for _ in range(6):
            servers[0].hearing.clear()
            sending = asyncio.create_task(replicas.send(asked()))
            await asyncio.wait_for(servers[0].hearing.wait(), 5)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert replicas.states() == {"engine-0": "closed"}
        assert replicas.replicas[0].in_flight == 0


async def test_a_fleet_is_up_while_one_engine_is() -> None:
    replicas = Replicas(
        [replica_of(Scripted(always(Line()), name=name), name=name) for name in ("a", "b")], name="fleet"
    )
    first, second = (replica.backend for replica in replicas.replicas)
    assert isinstance(first, Scripted)
    assert isinstance(second, Scripted)
    first.up = False
    assert await replicas.ping()
    second.up = False
    assert not await replicas.ping()


async def test_the_last_engines_error_is_told_where_all_fail() -> None:
    async with fleet([Line(trouble="500"), Line(trouble="500")]) as (servers, replicas):
        with pytest.raises(Failed, match="500"):
            await replicas.send(asked())
        assert [len(server.heard) for server in servers] == [1, 1]


def test_a_fleet_without_engines_is_no_fleet() -> None:
    with pytest.raises(ValueError, match="no replicas"):
        Replicas([], name="fleet")


async def served(replicas: Replicas, tokens: int) -> str:
    reply = await replicas.send(replace(asked(), tokens=tokens))
    await read_all(reply)
    return reply.report.served_by


async def test_weights_share_the_turns_of_idle_engines() -> None:
    async with fleet([Line(), Line()]) as (_, replicas):
        replicas.replicas[0].weight = 3.0
        answered = [(await served(replicas, 0))[-1] for _ in range(40)]
        assert (answered.count("0"), answered.count("1")) == (30, 10)
        assert "11" not in "".join(answered)  # smooth, not in runs


async def test_an_engine_with_too_small_a_context_is_passed_by() -> None:
    async with fleet([Line(), Line()]) as (_, replicas):
        replicas.replicas[0].context_tokens, replicas.replicas[1].context_tokens = 100, 1000
        assert {await served(replicas, 500) for _ in range(6)} == {"engine-1"}
        assert {await served(replicas, 50) for _ in range(6)} == {"engine-0", "engine-1"}
        assert await served(replicas, 5000)  # nobody is thought to hold it: the engines may say so
