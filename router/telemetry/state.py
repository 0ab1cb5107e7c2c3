"""How budgets and learning stand, read when somebody asks: workers share both, so one of them can say it.

A store that is away costs the gauges of budgets, not the page.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from prometheus_client.core import GaugeMetricFamily, Metric

from router.errors import StoreUnavailable
from router.gateway.types import Catalogue
from router.learning.follower import Learning
from router.settings import Settings
from router.stores.keys import Key, Team, Tenant
from router.stores.open import Stores
from router.telemetry.exposition import budget_gauges
from router.types import Budget, Principal

LOG = logging.getLogger("pointsman.telemetry")
MOST_BUDGETS = 2_000  # that have gauges; those of the settings file first


async def state_gauges(
    settings: Settings, catalogue: Catalogue, stores: Stores, learning: Learning, now_ms: int
) -> list[Metric]:
    """Budgets of tenants, teams, the file's keys and models, and how much is learned."""
    found: list[Metric] = [
        GaugeMetricFamily("pointsman_learned_judgements", "Judgements learned from", value=learning.learned),
        GaugeMetricFamily("pointsman_policies", "Policies kept in memory", value=len(learning.views.policies)),
    ]
    try:
        balances = await stores.ledger.balances(await known_budgets(settings, catalogue, stores), now_ms)
    except StoreUnavailable as error:
        LOG.warning("the metrics leave budgets out: %s", error.message)
        return found
    return [*found, *budget_gauges(balances)]


async def known_budgets(
    settings: Settings, catalogue: Catalogue, stores: Stores, *, of_keys: bool = False
) -> list[Budget]:
    """Of tenants, teams, the file's keys and models, and `of_keys` of the admin API: MOST_BUDGETS at most.

    Raises: StoreUnavailable.
    """
    budgets = dict.fromkeys(_declared(settings, catalogue))
    async for budget in _stored(stores, of_keys=of_keys):
        if len(budgets) >= MOST_BUDGETS:
            break
        budgets[budget] = None
    return list(budgets)[:MOST_BUDGETS]


def _declared(settings: Settings, catalogue: Catalogue) -> list[Budget]:
    """Of the settings file."""
    of_tenants = [settings.completed(Principal("", tenant)) for tenant in settings.tenants]
    principals = [each for each in of_tenants if each] + [key.principal for key in settings.static_keys()]
    budgets = [budget for principal in principals for budget in principal.budgets]
    return [*budgets, *(budget for model in catalogue.models for budget in model.budgets)]


async def _stored(stores: Stores, *, of_keys: bool) -> AsyncIterator[Budget]:
    """Of tenants and teams that the admin API made, and of keys."""
    async for tenant in stores.keys.with_budgets(Tenant):
        for each in tenant.terms.budgets:
            yield each.budget(f"tenant:{tenant.name}")
    async for team in stores.keys.with_budgets(Team):
        for each in team.terms.budgets:
            yield each.budget(f"team:{team.name}")
    if not of_keys:
        return
    async for key in stores.keys.with_budgets(Key):
        for each in key.terms.budgets:
            yield each.budget(f"key:{key.id}")
