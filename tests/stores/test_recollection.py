"""What the outcome log gives back when it is asked for one decision, or for the latest entries; in both stores."""

from __future__ import annotations

import pytest

from router.stores.open import Stores
from router.types import Feedback
from tests.stores.test_log import decision, settlement

pytestmark = pytest.mark.anyio


async def test_a_decision_comes_back_with_what_came_of_it(stores: Stores) -> None:
    for name in ("a", "b"):
        await stores.log.remember(decision(name))
        await stores.log.remember(settlement(name))
    await stores.log.judge(Feedback("a", 3, 1.0, tenant="acme"))
    found = await stores.log.of("a")
    assert [type(each).__name__ for each in found] == ["DecisionRecord", "SettlementRecord", "Feedback"]
    assert {each.decision_id for each in found} == {"a"}
    assert found[0] == decision("a")
    assert await stores.log.of("nothing") == []


async def test_the_latest_entries_come_oldest_first(stores: Stores) -> None:
    for name in ("a", "b", "c"):
        await stores.log.remember(decision(name))
    assert [each.decision_id for each in await stores.log.latest(2)] == ["b", "c"]
    assert [each.decision_id for each in await stores.log.latest(9)] == ["a", "b", "c"]


async def test_more_entries_than_a_page_holds_come_whole(stores: Stores) -> None:
    for number in range(1_203):
        await stores.log.remember(settlement(f"{number:04d}"))
    found = await stores.log.latest(1_100)
    assert [each.decision_id for each in found] == [f"{number:04d}" for number in range(103, 1_203)]
