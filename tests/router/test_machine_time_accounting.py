"""Machine time read from the log: shared by those who run together, free while nobody does, the same everywhere."""

from __future__ import annotations

import io

import numpy as np
import pytest

from policies.estimators.machine_time import TokenSeconds
from policies.types import Arm
from router.gateway.machine_pricing import MachinePricing, MachineRate
from router.learning.machine_time import MachineTimeAccounting
from router.types import DecisionRecord, LogEntry, NanoUsd, SettlementRecord
from tests.policies.worlds import make_record
from tests.router.conftest import model

TOKENS = 100


def decided(name: str, at_ms: int, arm: str = "m", backend: str = "gpu") -> DecisionRecord:
    return make_record(name, (Arm(arm, 0.0, 0.0),), at_ms=at_ms, backend=backend)


def settled(name: str, at_ms: int, arm: str = "m", *, tokens: int = TOKENS, outcome: str = "settled") -> LogEntry:
    return SettlementRecord(name, at_ms, arm, NanoUsd(0), 0, tokens, outcome, 0.0, 0.0)


def follow(machine_time: MachineTimeAccounting, *entries: LogEntry) -> None:
    for entry in entries:
        machine_time.take(entry)


def crowd(arms: list[str], *, began_ms: int, took_ms: int, round_: int = 0) -> list[LogEntry]:
    """These arms asked at one moment and done at one."""
    names = [f"{round_}-{i}" for i in range(len(arms))]
    began: list[LogEntry] = [decided(name, began_ms, arm) for name, arm in zip(names, arms, strict=True)]
    return began + [settled(name, began_ms + took_ms, arm) for name, arm in zip(names, arms, strict=True)]


def seconds(machine_time: MachineTimeAccounting, arm: str = "m") -> float:
    """Machine seconds of TOKENS tokens."""
    found = machine_time.time.measured(arm)
    assert found is not None
    return TOKENS * found.completion


def test_a_request_alone_takes_its_whole_time() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    follow(machine_time, decided("a", 0), settled("a", 2000))
    assert seconds(machine_time) == pytest.approx(2.0)


def test_those_who_run_together_share_the_machine() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    follow(machine_time, *crowd(["m"] * 8, began_ms=0, took_ms=2000))
    assert seconds(machine_time) == pytest.approx(2.0 / 8)


def test_nobody_shares_before_every_engine_has_a_request() -> None:
    machine_time = MachineTimeAccounting(lambda _: 2)
    follow(machine_time, *crowd(["m"] * 2, began_ms=0, took_ms=2000))
    assert seconds(machine_time) == pytest.approx(2.0)


def test_the_shares_of_a_backend_add_up_to_the_time_it_was_busy() -> None:
    rng = np.random.default_rng()
    begins = np.sort(rng.integers(0, 4000, 60))
    ends = begins + rng.integers(1, 300, 60)
    events = [(int(at), 0, i) for i, at in enumerate(begins)] + [(int(at), 1, i) for i, at in enumerate(ends)]
    taken: list[float] = []
    machine_time = MachineTimeAccounting(lambda _: 1)
    machine_time.time.learn = lambda arm, *, seconds, **_: taken.append(seconds)  # type: ignore[method-assign, assignment]
    for at_ms, kind, i in sorted(events):
        follow(machine_time, settled(str(i), at_ms) if kind else decided(str(i), at_ms))
    busy_ms = len({ms for begin, end in zip(begins, ends, strict=True) for ms in range(begin, end)})
    assert sum(taken) == pytest.approx(busy_ms / 1000)


def test_idle_hours_cost_nothing() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    hour = 3_600_000
    for i in range(8):
        follow(machine_time, decided(str(i), i * hour), settled(str(i), i * hour + 500))
    assert seconds(machine_time) == pytest.approx(0.5)


def test_another_backends_requests_take_nothing_of_this_one() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    follow(machine_time, decided("x", 0, backend="other"), decided("a", 0), settled("a", 1000))
    assert seconds(machine_time) == pytest.approx(1.0)


def test_a_backend_whose_machine_has_no_price_is_not_measured() -> None:
    machine_time = MachineTimeAccounting(lambda name: int(name == "gpu"))
    follow(machine_time, decided("a", 0, backend="elsewhere"), settled("a", 1000))
    assert machine_time.time.measured("m") is None


def test_a_request_that_never_reached_its_engine_teaches_nothing_and_leaves() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    follow(machine_time, decided("a", 0), settled("a", 10, outcome="released", tokens=0))
    assert machine_time.time.measured("m") is None
    assert machine_time.running("gpu") == 0


def test_a_decision_that_was_lost_with_its_gateway_does_not_share_for_ever() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1, longest_ms=1000)
    follow(machine_time, decided("lost", 0), decided("a", 5000), settled("a", 6000))
    assert seconds(machine_time) == pytest.approx(1.0)


def test_entries_of_several_gateways_may_come_a_little_out_of_order() -> None:
    machine_time = MachineTimeAccounting(lambda _: 1)
    follow(machine_time, decided("a", 1000), decided("b", 990), settled("a", 2000), settled("b", 1995))
    assert machine_time.running("gpu") == 0
    assert seconds(machine_time) == pytest.approx(0.5, rel=0.02)


def some_log(rng: np.random.Generator, count: int = 200) -> list[LogEntry]:
    began = np.cumsum(rng.integers(0, 40, count))
    arms = rng.choice(["m@3bit", "m@8bit", "m"], count)
    events = [(int(at), 0, i) for i, at in enumerate(began)]
    events += [(int(at + rng.integers(5, 400)), 1, i) for i, at in enumerate(began)]
    return [
        settled(str(i), at_ms, arms[i], tokens=1 + i % 90) if kind else decided(str(i), at_ms, arms[i])
        for at_ms, kind, i in sorted(events)
    ]


def test_a_replica_that_starts_from_a_snapshot_agrees_to_the_last_bit() -> None:
    log = some_log(np.random.default_rng())
    whole, first, second = (MachineTimeAccounting(lambda _: 1) for _ in range(3))
    follow(whole, *log)
    follow(first, *log[:173])  # in the middle of requests
    stored = io.BytesIO()
    np.savez(stored, allow_pickle=False, **dict(first.state()))  # type: ignore[arg-type]
    stored.seek(0)
    with np.load(stored) as state:
        second.restore({key: state[key] for key in state.files})
    follow(second, *log[173:])
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, second.state()[name])


NARROW = model("m@3bit", 100, backend="gpu", bits=3, parent="m", parameters=7e9)
WIDE = model("m@8bit", 100, backend="gpu", bits=8, parent="m", parameters=7e9)


def price(machine_pricing: MachinePricing, candidate: object) -> float:
    found = machine_pricing.price(candidate)  # type: ignore[arg-type]
    assert found is not None
    return found.completion_usd


def test_before_anything_is_measured_the_roofline_says_a_narrow_width_is_cheaper() -> None:
    machine_pricing = MachinePricing({"gpu": MachineRate(3.0)})
    assert price(machine_pricing, NARROW) == pytest.approx(price(machine_pricing, WIDE) * 3 / 8)


def test_a_width_that_is_measured_to_be_slower_at_load_becomes_more_expensive_whatever_its_bits() -> None:
    machine_pricing = MachinePricing({"gpu": MachineRate(3.6)})
    for i in range(8):
        follow(machine_pricing.machine_time, *crowd(["m@3bit"] * 8, began_ms=i * 10_000, took_ms=4000, round_=2 * i))
        follow(
            machine_pricing.machine_time,
            *crowd(["m@8bit"] * 8, began_ms=i * 10_000 + 5000, took_ms=1000, round_=2 * i + 1),
        )
    assert price(machine_pricing, NARROW) == pytest.approx(4.0 / 8 / TOKENS * 3.6 / 3600)
    assert price(machine_pricing, WIDE) == pytest.approx(price(machine_pricing, NARROW) / 4)


def test_of_two_alike_but_for_their_bits_measurement_makes_one_price() -> None:
    machine_pricing = MachinePricing({"gpu": MachineRate(3.6)})
    for i in range(8):
        arms = ["m@3bit", "m@8bit"] * 4
        follow(machine_pricing.machine_time, *crowd(arms, began_ms=i * 10_000, took_ms=1000, round_=i))
    assert price(machine_pricing, NARROW) == price(machine_pricing, WIDE)


def test_a_crowd_makes_tokens_cheaper_than_a_request_alone() -> None:
    alone, together = MachinePricing({"gpu": MachineRate(3.6)}), MachinePricing({"gpu": MachineRate(3.6)})
    for i in range(32):
        follow(alone.machine_time, *crowd(["m@3bit"], began_ms=i * 10_000, took_ms=1000, round_=i))
        follow(together.machine_time, *crowd(["m@3bit"] * 16, began_ms=i * 10_000, took_ms=2000, round_=i))
    assert price(together, NARROW) == pytest.approx(price(alone, NARROW) / 8)


def test_a_new_rent_prices_what_was_measured_at_once() -> None:
    machine_pricing = MachinePricing({"gpu": MachineRate(3.6)})
    follow(machine_pricing.machine_time, *crowd(["m@3bit"] * 40, began_ms=0, took_ms=1000))
    before = price(machine_pricing, NARROW)
    machine_pricing.take({"gpu": MachineRate(7.2)})
    assert price(machine_pricing, NARROW) == 2 * before


def test_a_byte_models_prompt_is_priced_for_tokens_of_four_bytes() -> None:
    machine_pricing = MachinePricing({"gpu": MachineRate(3.6)})
    bytes_, words = (model("m", 100, backend="gpu", bytes_per_token=size) for size in (1.0, 4.0))
    machine_pricing.machine_time.time.measured = lambda _: TokenSeconds(1e-3, 1e-3, 32)  # type: ignore[method-assign]
    found = machine_pricing.of([bytes_, words])
    assert found is not None
    assert found.prompt_usd[0] == pytest.approx(4 * found.prompt_usd[1])
    assert found.completion_usd[0] == found.completion_usd[1]


def test_without_rents_nothing_is_priced() -> None:
    assert MachinePricing({}).of([NARROW]) is None
    assert MachinePricing({"another": MachineRate(1.0)}).of([NARROW]) is None
