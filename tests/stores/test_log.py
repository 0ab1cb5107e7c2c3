"""The outcome log, in both stores."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from msgspec.structs import replace

from policies.types import Arm, BudgetState, Estimates, Evidence, MeasuredCost
from router.errors import Conflict, NotFound
from router.stores.codec import decode, encode
from router.stores.open import Stores
from router.stores.redis.log import RedisLog
from router.stores.sqlite.log import SqliteLog
from router.types import DecisionRecord, Feedback, NanoUsd, SettlementRecord
from tests.policies.worlds import make_record
from tests.stores.conftest import Clock, replicas

pytestmark = pytest.mark.anyio


ARMS = (Arm("small", 1e-7, 2e-7), Arm("large", 1e-6, 2e-6, parent="small", bits=4.0, quality=0.5))


def decision(name: str, *, tenant: str = "acme") -> DecisionRecord:
    """With everything in it that a record may hold."""
    record = make_record(name, ARMS, probabilities=(0.25, 0.75), text="why?", backend="vllm")
    context = replace(
        record.context,
        tenant=tenant,
        preference=3.0,
        prompt_tokens=7,
        budget=BudgetState(1.5, 2.0, 60.0, "tenant:acme"),
        capacity=np.array([1.0, np.inf]),
        features=np.array([0.5, 0.1], np.float32),
        measured_cost=MeasuredCost(np.array([1e-6, np.nan]), np.array([2e-6, np.nan]), np.array([200.0, 1.0])),
    )
    expected = Estimates(np.array([0.5, 0.7]), np.array([0.1, 0.2]), np.array([2e-6, 3e-5]))
    evidence = Evidence(expected, 0.5, np.array([0.0, 0.25]), early=True, worth=np.array([0.3, 0.1]))
    return replace(
        record, context=context, evidence=evidence, version="12+200", drawn="large", metadata={"session": "s1"}
    )


def settlement(name: str, response_id: str | None = None, tenant: str = "acme") -> SettlementRecord:
    paid = SettlementRecord(name, 2, "small", NanoUsd(5), 7, 3, "settled", 12.5, 1.5, response_id, "stop")
    return replace(paid, tenant=tenant)


async def entries(stores: Stores, after: str = "") -> list[object]:
    return [entry async for _, entry in stores.log.tail(after, follow=False)]


async def test_what_is_remembered_comes_back_whole_and_in_order(stores: Stores) -> None:
    given: list[DecisionRecord | SettlementRecord] = [
        decision("a"),
        settlement("a", "chatcmpl-1"),
        decision("b"),
        settlement("b"),
    ]
    for record in given:
        await stores.log.remember(record)
    judged = Feedback("a", 9, 0.75, comment="good", tenant="acme")
    assert await stores.log.judge(judged)
    assert await entries(stores) == [*given, judged]


async def test_a_reader_goes_on_where_it_stopped(stores: Stores) -> None:
    for name in "abc":
        await stores.log.remember(decision(name))
    positions = [position async for position, _ in stores.log.tail("", follow=False)]
    assert await entries(stores, positions[1]) == [decision("c")]


async def test_a_follower_hears_what_another_gateway_says(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        heard: asyncio.Queue[object] = asyncio.Queue()

        async def follow() -> None:
            async for _, entry in there.log.tail(""):
                heard.put_nowait(entry)

        task = asyncio.create_task(follow())
        await here.log.remember(decision("a"))
        first = await asyncio.wait_for(heard.get(), 10)
        await here.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
        second = await asyncio.wait_for(heard.get(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [first, second] == [decision("a"), Feedback("a", 3, 1.0, tenant="acme")]


async def test_gateways_that_write_in_turn_read_the_same_entries_at_the_same_positions(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        for name in "abc":
            for stores in (here, there):
                await stores.log.remember(decision(f"{name}{id(stores)}"))
                await stores.log.remember(settlement(f"{name}{id(stores)}"))
                await entries(stores)  # all that waited is written
        read = [[pair async for pair in stores.log.tail("", follow=False)] for stores in (here, there)]
    assert len(read[0]) == 12
    assert read[0] == read[1]


async def test_feedback_may_come_to_another_gateway_before_the_decision_is_written(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        await here.log.remember(decision("a"))
        assert await there.log.judge(Feedback("a", 3, 1.0, tenant="acme"))


async def test_a_follower_that_is_stopped_as_an_entry_comes_stops(stores: Stores) -> None:
    heard = asyncio.Event()

    async def follow() -> None:
        async for _ in stores.log.tail(""):
            heard.set()

    await stores.log.remember(decision("a"))
    task = asyncio.create_task(follow())
    await heard.wait()
    for _ in range(20):  # until it waits for the next
        await asyncio.sleep(0)
    await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done


async def test_a_decision_comes_back_to_the_last_bit() -> None:
    given, back = decision("a"), decode("d", encode(decision("a")))
    assert isinstance(back, DecisionRecord)
    assert back == given
    assert back.context.budget == given.context.budget
    for ours, theirs in zip(numbers(back), numbers(given), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def numbers(record: DecisionRecord) -> list[object]:
    context, evidence = record.context, record.evidence
    known = (context.embedding, context.capacity, context.features, context.measured_cost.prompt_usd)  # type: ignore[union-attr]
    expected = (evidence.expected.quality, evidence.expected.sigma, evidence.expected.cost)
    return [*known, *expected, evidence.capacity_prices, evidence.worth, record.probabilities, record.propensity]


async def spoil(log: object, kind: str, body: bytes) -> None:
    """Write an entry as a damaged store would give it back."""
    if isinstance(log, RedisLog):
        await log._link.command("XADD", log._key, "*", "k", kind, "b", body)
        return
    assert isinstance(log, SqliteLog)

    def work() -> None:
        sql = "INSERT INTO log (kind, tenant, decision_id, response_id, body) VALUES (?, ?, ?, ?, ?)"
        log._db.execute(sql, (kind, "acme", "spoilt", None, body))

    await log._db.transact(work)


@pytest.mark.parametrize(
    ("kind", "body"), [("d", b"\xc1 no record"), ("f", b""), ("s", encode(settlement("x"))[:9]), ("?", b"x")]
)
async def test_an_entry_that_cannot_be_read_costs_itself_alone(
    kind: str, body: bytes, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.log.remember(decision("a"))
    assert await entries(stores) == [decision("a")]
    await spoil(stores.log, kind, body)
    await stores.log.remember(decision("b"))
    assert await entries(stores) == [decision("a"), decision("b")]
    assert "of the outcome log cannot be read and is passed over" in caplog.text


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_bytes_that_are_no_decision_are_refused(cut: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whoever reads the bytes says what is wrong with them
        decode("d", encode(decision("a"))[:cut])


def test_a_decision_whose_numbers_do_not_fit_its_candidates_is_refused() -> None:
    record = decision("a")
    damaged = replace(record, probabilities=np.ones(3))
    with pytest.raises(ValueError, match="do not fit 2 candidates"):
        decode("d", encode(damaged))


def test_a_decision_for_a_model_that_was_no_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody is not among"):
        decode("d", encode(replace(decision("a"), model="")))


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_judgement_outside_of_its_range_is_refused(score: float) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode("f", encode(Feedback("a", 3, score)))


async def test_feedback_may_name_the_response(stores: Stores) -> None:
    await stores.log.remember(decision("a"))
    await stores.log.remember(settlement("a", "chatcmpl-1"))
    await stores.log.judge(Feedback("chatcmpl-1", 3, 1.0, tenant="acme"))
    assert (await entries(stores))[-1] == Feedback("a", 3, 1.0, tenant="acme")


async def test_the_same_feedback_again_changes_nothing(stores: Stores) -> None:
    await stores.log.remember(decision("a"))
    assert await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
    assert not await stores.log.judge(Feedback("a", 4, 1.0, tenant="acme"))
    assert len(await entries(stores)) == 2


async def test_contradicting_feedback_is_a_conflict_unless_it_replaces(stores: Stores) -> None:
    await stores.log.remember(decision("a"))
    await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
    with pytest.raises(Conflict):
        await stores.log.judge(Feedback("a", 4, 0.0, tenant="acme"))
    assert await stores.log.judge(Feedback("a", 4, 0.0, replace=True, tenant="acme"))
    assert await stores.log.judge(Feedback("a", 5, 0.5, source="validator:json", tenant="acme"))


async def test_feedback_on_an_unknown_decision_is_not_found(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.log.judge(Feedback("nobody", 3, 1.0, tenant="acme"))


@pytest.mark.parametrize("name", ["a", "chatcmpl-1"])
async def test_another_tenants_decision_is_as_unknown_as_nobodys(stores: Stores, name: str) -> None:
    await stores.log.remember(decision("a"))
    await stores.log.remember(settlement("a", "chatcmpl-1"))
    said = []
    for some_id in (name, "never-heard-of"):
        with pytest.raises(NotFound) as refused:
            await stores.log.judge(Feedback(some_id, 3, 0.0, replace=True, tenant="mallory", key_id="k_m"))
        said.append(refused.value.message.replace(repr(some_id), "ID"))
    assert said[0] == said[1]
    assert len(await entries(stores)) == 2


async def test_tenants_whose_engine_counts_its_answers_judge_their_own(stores: Stores) -> None:
    for tenant in ("acme", "mallory", "acme"):  # the engine was started anew: the last "chatcmpl-1" is meant
        name = f"{tenant}{len(await entries(stores))}"
        await stores.log.remember(decision(name, tenant=tenant))
        await stores.log.remember(settlement(name, "chatcmpl-1", tenant))
    for tenant in ("acme", "mallory"):
        await stores.log.judge(Feedback("chatcmpl-1", 3, 1.0, tenant=tenant))
    assert [each.decision_id for each in await entries(stores) if isinstance(each, Feedback)] == ["acme4", "mallory2"]


async def test_a_response_that_is_named_like_a_decision_of_another_tenant_hides_nothing(stores: Stores) -> None:
    await stores.log.remember(decision("a"))
    await stores.log.remember(decision("b", tenant="mallory"))
    await stores.log.remember(settlement("b", "a", "mallory"))  # clients may choose the ids of some engines
    with pytest.raises(NotFound):
        await stores.log.judge(Feedback("a", 3, 0.0, tenant="mallory"))
    assert await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
    assert [each.decision_id for each in await entries(stores) if isinstance(each, Feedback)] == ["a"]


async def test_only_the_key_that_judged_or_an_admin_replaces_what_it_said(stores: Stores) -> None:
    await stores.log.remember(decision("a"))
    assert await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme", key_id="k_1"))
    with pytest.raises(Conflict):
        await stores.log.judge(Feedback("a", 4, 0.0, replace=True, tenant="acme", key_id="k_2"))
    assert await stores.log.judge(Feedback("a", 5, 0.5, replace=True, tenant="acme", key_id="k_1"))
    assert await stores.log.judge(Feedback("a", 6, 0.25, replace=True, tenant="acme", key_id="k_admin", by_admin=True))
    assert [each.score for each in await entries(stores) if isinstance(each, Feedback)] == [1.0, 0.5, 0.25]
