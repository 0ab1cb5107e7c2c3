"""The verbs about whose money is spent: tenants, budgets and spend, as the admin API and the page show them."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from cli.config import add_config
from router.errors import InvalidRequest
from router.types import now_ms

if TYPE_CHECKING:
    from rich.table import Table

    from router.settings import Settings
    from router.stores.open import Stores

Verbs = Any  # argparse gives its subparsers no public type
Work = Callable[[argparse.Namespace, "Settings", "Stores"], Awaitable["Table | str"]]
WIDTH = 110  # at least, of a table that is not printed to a terminal


def add_verbs(verbs: Verbs) -> None:
    """Add tenants, budgets and spend."""
    _add(verbs.add_parser("tenants", help="who pays: of the settings file and of the admin API"), _tenants)
    _add(verbs.add_parser("budgets", help="what is left of every budget, and how long it will last"), _budgets)
    spend = verbs.add_parser("spend", help="what was spent")
    spend.add_argument(
        "--by",
        default="tenant",
        help="of day, tenant, team, key, model, width and program, by commas (default: tenant)",
    )
    spend.add_argument("--days", type=int, default=30, help="how far back, today included (default: 30)")
    spend.add_argument("--csv", action="store_true", help="as CSV")
    _add(spend, _spend)


def _add(parser: argparse.ArgumentParser, work: Work) -> None:
    add_config(parser)
    parser.set_defaults(run=_run, work=work)


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from router.settings import load  # noqa: PLC0415
    from router.settings.paths import make_state_dir, store_url  # noqa: PLC0415  (each verb imports what it needs)
    from router.stores.open import open_stores  # noqa: PLC0415

    settings = load(arguments.config)

    async def work() -> Table | str:
        make_state_dir(settings)
        async with open_stores(store_url(settings), clock=now_ms) as stores:
            shown: Table | str = await arguments.work(arguments, settings, stores)
            return shown

    shown = asyncio.run(work())
    if isinstance(shown, str):
        print(shown, end="")
    else:
        console = Console()
        Console(width=max(WIDTH, console.width) if not console.is_terminal else None).print(shown)
    return 0


async def _tenants(arguments: argparse.Namespace, settings: Settings, stores: Stores) -> Table:
    from rich.table import Table  # noqa: PLC0415

    from router.http.declared import DeclaredOwners  # noqa: PLC0415
    from router.stores.keys import Tenant  # noqa: PLC0415

    table = Table("tenant", "source", "budgets", "preference", "models", "state")
    declared = {each.name: each for each in DeclaredOwners(lambda: settings).all(Tenant)}
    stored = {each.name: each async for each in stores.keys.all(Tenant)}
    for name in sorted({**stored, **declared}):
        terms = (declared.get(name) or stored[name]).terms
        table.add_row(
            name,
            "file" if name in declared else "api",
            ", ".join(map(str, terms.budgets)),
            "" if terms.preference is None else f"{terms.preference:g}",
            "all" if terms.allowed_models is None else ", ".join(sorted(terms.allowed_models)),
            "disabled" if terms.disabled else "active",
        )
    return table


async def _budgets(arguments: argparse.Namespace, settings: Settings, stores: Stores) -> Table:
    from rich.table import Table  # noqa: PLC0415

    from router.amounts import Period  # noqa: PLC0415
    from router.gateway.types import Catalogue  # noqa: PLC0415
    from router.stores.forecasts import forecast  # noqa: PLC0415
    from router.telemetry.state import known_budgets  # noqa: PLC0415
    from router.types import show_usd  # noqa: PLC0415

    table = Table("whose", "limit, USD", "per", "spent, USD", "held, USD", "left, USD", "forecast")
    budgets = await known_budgets(settings, Catalogue(settings.candidates(), {}), stores, of_keys=True)
    for each in await stores.ledger.balances(budgets, now_ms()):
        reported, period = forecast(each), Period(each.budget.period_s, each.budget.calendar)
        in_hours = "" if not reported.exhausted_in_s else f", in {reported.exhausted_in_s / 3600:.1f} h"
        amounts = show_usd(each.budget.limit), str(period), show_usd(each.spent), show_usd(each.held)
        left = show_usd(each.remaining)
        table.add_row(each.budget.scope, *amounts, left, f"{reported.says}{in_hours}")
    return table


async def _spend(arguments: argparse.Namespace, settings: Settings, stores: Stores) -> Table | str:
    from rich.table import Table  # noqa: PLC0415

    from router.http.declared import names_of  # noqa: PLC0415
    from router.stores.reports import GROUPS, as_csv, grouped  # noqa: PLC0415
    from router.types import show_usd  # noqa: PLC0415

    groups = arguments.by.split(",")
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or arguments.days < 1:
        wrong = (
            f"--by {arguments.by!r}: expected {', '.join(GROUPS)}"
            if unknown
            else f"--days {arguments.days}: expected ≥ 1"
        )
        raise InvalidRequest(wrong)
    today = dt.datetime.fromtimestamp(now_ms() / 1000, dt.UTC).date()
    since = dt.date.fromordinal(max(1, today.toordinal() - arguments.days + 1))
    found = await stores.spend.lines(since=since.isoformat(), until=today.isoformat())
    lines = grouped(found, groups, known=names_of(settings))
    if arguments.csv:
        return as_csv(lines)
    table = Table(*groups, "requests", "prompt tokens", "completion tokens", "USD", "saved, USD")
    for line in lines:
        names = [str(getattr(line, name)) for name in groups]
        counts = [str(each) for each in (line.requests, line.prompt_tokens, line.completion_tokens)]
        table.add_row(*names, *counts, show_usd(line.cost_nanousd), show_usd(line.saved_nanousd))
    return table
