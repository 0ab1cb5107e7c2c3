"""spent + held <= limit at every instant, and the sum of settled spends is what the store says: over both stores."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from router.errors import BudgetExceeded, RateLimited
from router.stores.open import Stores, open_stores
from router.types import RELEASED, Hold, RateLimit
from tests.stores.conftest import PATIENT, Clock, RedisProcess
from tests.stores.making import budget, offer, principal, reservation, spend

T = TypeVar("T")

TENANT = budget(1000, period_s=30)
KEY = budget(400, scope="key:k_acme", period_s=86_400, calendar="day")
CAPACITY = budget(300, scope="model:large", period_s=60)
LIMIT = RateLimit("key:k_acme", concurrent=4)
WHO = principal(TENANT, KEY, LIMIT)


class Money(RuleBasedStateMachine):
    """Two gateways on one store do what they like; a model in plain numbers says what must be true."""

    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.clock = Clock()
        self.open: dict[str, tuple[Stores, Hold, bool]] = {}
        self.ended: list[tuple[Stores, Hold]] = []
        self.spent = 0

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.gateways = [self.run_now(self._opened()) for _ in range(2)]

    async def _opened(self) -> Stores:
        return await self.stack.enter_async_context(open_stores(self.url(), clock=self.clock))

    def url(self) -> str:
        raise NotImplementedError

    @rule(gateway=st.integers(0, 1), large=st.integers(1, 400), small=st.integers(1, 100))
    def reserve(self, gateway: int, large: int, small: int) -> None:
        offers = (offer(large, model="large", budgets=(CAPACITY,)), offer(small))
        asked = reservation(WHO, *offers, now_ms=self.clock(), ttl_ms=10_000)
        try:
            hold = self.run_now(self.gateways[gateway].ledger.reserve(asked))
        except (BudgetExceeded, RateLimited):
            return
        self.open[hold.decision_id] = (self.gateways[gateway], hold, False)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        gateway, hold, _ = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        cost = int(hold.amount * share)
        self.run_now(gateway.ledger.settle(hold, spend(cost)))
        self.spent += cost
        self.ended.append((gateway, hold))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        gateway, hold, _ = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.run_now(gateway.ledger.settle(hold, RELEASED))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def first_byte(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        gateway, hold, _ = self.open[name]
        self.run_now(gateway.ledger.mark(hold))
        self.open[name] = (gateway, hold, True)

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), cost=st.integers(0, 400))
    def settle_again(self, data: st.DataObject, cost: int) -> None:
        gateway, hold = data.draw(st.sampled_from(self.ended))
        self.run_now(gateway.ledger.settle(hold, spend(cost)))

    @rule(seconds=st.sampled_from([0.4, 3, 11, 31]))
    def pass_time(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        for name, (_, hold, sent) in list(self.open.items()):
            if hold.expires_at_ms <= self.clock():
                self.spent += hold.amount if sent else 0
                del self.open[name]

    @rule(gateway=st.integers(0, 1))
    def restart(self, gateway: int) -> None:
        """The process dies: its holds stay with the store until their leases end."""
        self.gateways[gateway] = self.run_now(self._opened())

    @invariant()
    def limits_hold_and_sums_agree(self) -> None:
        if not hasattr(self, "gateways"):
            return
        held = sum(hold.amount for _, hold, _ in self.open.values())
        for gateway in self.gateways:
            balances = self.run_now(gateway.ledger.balances([TENANT, KEY, CAPACITY], self.clock()))
            for b in balances:
                assert 0 <= b.spent + b.held <= b.budget.limit
            assert balances[0].held == balances[1].held == held
            assert balances[1].spent == self.spent
        assert len(self.open) <= 4

    def teardown(self) -> None:
        self.run_now(self.stack.aclose())
        self.loop.close()


BRIEF = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def test_money_is_conserved_on_sqlite() -> None:
    with tempfile.TemporaryDirectory() as folder:

        class OnSqlite(Money):
            def url(self) -> str:
                self.path = getattr(self, "path", Path(folder) / f"{time.monotonic_ns()}.db")
                return f"sqlite:///{self.path}"

        run_state_machine_as_test(OnSqlite, settings=BRIEF)


def test_money_is_conserved_on_redis(redis_process: RedisProcess) -> None:
    class OnRedis(Money):
        def url(self) -> str:
            self.tag = getattr(self, "tag", f"m{time.monotonic_ns()}")
            return f"{redis_process.url}?prefix={{{self.tag}}}&{PATIENT}"

    run_state_machine_as_test(OnRedis, settings=BRIEF)
