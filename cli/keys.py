"""The verb about who may ask: keys create, first, list, rotate, disable, enable."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from cli.config import add_config
from router.errors import InvalidRequest
from router.stores.reports import by_command_line
from router.types import now_ms

if TYPE_CHECKING:
    from pydantic import ValidationError

    from router.stores.keys import Key
    from router.stores.open import Stores
    from router.terms import Terms

Verbs = Any  # argparse gives its subparsers no public type
_OPTIONS = {
    "budgets": "--budget",
    "requests_per_minute": "--rpm",
    "tokens_per_minute": "--tpm",
    "concurrent": "--concurrent",
    "allowed_models": "--models",
    "preference": "--preference",
}
Work = Callable[[argparse.Namespace, "Stores"], Awaitable[None]]


def add_verbs(verbs: Verbs) -> None:
    """Add keys and what can be done to them."""
    top = verbs.add_parser("keys", help="create, list, rotate and disable keys")
    acts = top.add_subparsers(metavar="ACTION", required=True)
    create = acts.add_parser("create", help="make a key and show it, this once")
    create.add_argument("tenant", help="who pays; made if there is none of that name")
    create.add_argument("--team", help="a team of the tenant")
    create.add_argument("--name", default="", help="for recognition")
    create.add_argument("--expires", metavar="PERIOD", help="when it ends: 12h, 30d, 1y")
    create.add_argument("--budget", action="append", default=[], help="e.g. '5 USD per day', '1 USD per 30s soft'")
    create.add_argument("--models", help="names it may use, separated by commas (default: all)")
    create.add_argument("--local-only", action="store_true", help="only models on machines of yours")
    create.add_argument("--preference", type=float, help="0 cheapest … 1 best")
    create.add_argument("--rpm", type=int, help="requests a minute")
    create.add_argument("--tpm", type=int, help="tokens a minute")
    create.add_argument("--concurrent", type=int, help="requests at once")
    create.add_argument("--admin", action="store_true", help="may use the admin API")
    _add(create, _create)
    _add(acts.add_parser("list", help="every key, without its secret"), _list)
    first = acts.add_parser("first", help="print a key of the settings file, or the one that the first start made")
    add_config(first)
    first.set_defaults(run=_first)
    rotate = acts.add_parser("rotate", help="give a key a new secret and show it, this once")
    rotate.add_argument("id", help="k_…")
    rotate.add_argument("--grace", default="0s", metavar="PERIOD", help="how long the old secret works on (default 0s)")
    _add(rotate, _rotate)
    for act, disabled in (("disable", True), ("enable", False)):
        switch = acts.add_parser(act, help=f"{act} a key")
        switch.add_argument("id", help="k_…")
        switch.set_defaults(disabled=disabled)
        _add(switch, _switch)


def _add(parser: argparse.ArgumentParser, work: Work) -> None:
    add_config(parser)
    parser.set_defaults(run=_run, work=work)


def _run(arguments: argparse.Namespace) -> int:
    from router.settings import load  # noqa: PLC0415
    from router.settings.paths import make_state_dir, store_url  # noqa: PLC0415  (each verb imports what it needs)
    from router.stores.open import open_stores  # noqa: PLC0415

    settings = load(arguments.config)
    arguments.known = frozenset(settings.tenants)

    async def work() -> None:
        make_state_dir(settings)  # keys may be made before the first start
        async with open_stores(store_url(settings), clock=now_ms) as stores:
            await arguments.work(arguments, stores)

    asyncio.run(work())
    return 0


def _first(arguments: argparse.Namespace) -> int:
    """So that a line to paste needs no secret in it."""
    from router.http.banner import usable  # noqa: PLC0415  (each verb imports what it needs)
    from router.settings import load  # noqa: PLC0415
    from router.settings.paths import first_key_path  # noqa: PLC0415

    settings = load(arguments.config)
    path = first_key_path(settings)
    secret = usable(settings) or (path.read_text().strip() if path.is_file() else None)
    if secret is None:
        raise InvalidRequest(f"there is no key in the settings, and none in {path}: pointsman keys create TENANT")
    print(secret)
    return 0


async def _create(arguments: argparse.Namespace, stores: Stores) -> None:
    is_new = arguments.tenant not in arguments.known and await stores.records.get("tenant", arguments.tenant) is None
    expires = None if arguments.expires is None else now_ms() + _seconds(arguments.expires, "--expires") * 1000
    key, secret = await stores.keys.create(
        arguments.tenant,
        team=arguments.team,
        name=arguments.name,
        expires_ms=expires,
        terms=_terms(arguments),
        admin=arguments.admin,
    )
    print(f"{key.id} of {key.tenant}\n\n  {secret}\n\nIt is shown this once; only its hash is kept.")
    if is_new:
        print(f"note: there was no tenant {key.tenant!r}: it is made, without a budget of its own")
    await _note(stores, "key.created", key.id, tenant=key.tenant, name=key.name, admin=key.admin)


async def _list(arguments: argparse.Namespace, stores: Stores) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    from router.stores.keys import Key  # noqa: PLC0415

    whole = Column("id", no_wrap=True, overflow="fold")
    table = Table(whole, "begins with", "tenant", "team", "name", "state", "models")
    async for key in stores.keys.all(Key):
        models = ", ".join(sorted(key.terms.allowed_models)) if key.terms.allowed_models else "all"
        table.add_row(key.id, f"{key.prefix}…", key.tenant, key.team or "", key.name, _state(key), models)
    Console().print(table)


async def _rotate(arguments: argparse.Namespace, stores: Stores) -> None:
    grace_s = _seconds(arguments.grace, "--grace") if arguments.grace != "0s" else 0
    key, secret = await stores.keys.rotate(arguments.id, grace_s=grace_s)
    print(f"{key.id} of {key.tenant}\n\n  {secret}\n\nIt is shown this once; the old one works {grace_s} s more.")
    await _note(stores, "key.rotated", key.id, grace_s=grace_s)


async def _switch(arguments: argparse.Namespace, stores: Stores) -> None:
    key = await stores.keys.disable(arguments.id, disabled=arguments.disabled)
    await _note(stores, "key.disabled" if arguments.disabled else "key.enabled", key.id)
    print(f"{key.id} is {_state(key)}")


async def _note(stores: Stores, kind: str, subject: str, **detail: object) -> None:
    """In the audit log, as the admin API notes it."""
    await stores.audit.note(kind, subject, {**detail, "by": by_command_line()})


def _state(key: Key) -> str:
    if key.terms.disabled:
        return "disabled"
    if key.expires_ms is not None and key.expires_ms <= now_ms():
        return "expired"
    return "admin" if key.admin else "active"


def _terms(arguments: argparse.Namespace) -> Terms:
    from pydantic import ValidationError  # noqa: PLC0415

    from router.terms import Terms  # noqa: PLC0415

    rates = {
        "requests_per_minute": arguments.rpm,
        "tokens_per_minute": arguments.tpm,
        "concurrent": arguments.concurrent,
    }
    given = {
        "budgets": arguments.budget,
        "limits": [rates] if any(rate is not None for rate in rates.values()) else [],
        "allowed_models": arguments.models.split(",") if arguments.models else None,
        "local_only": arguments.local_only,
        "preference": arguments.preference,
    }
    try:
        return Terms.model_validate(given)
    except ValidationError as error:
        raise InvalidRequest(_complaint(error, arguments)) from None


def _complaint(error: ValidationError, arguments: argparse.Namespace) -> str:
    """The option that is wrong, what it says and what was expected."""
    first = error.errors()[0]
    option, value = _OPTIONS[str(first["loc"][-1] if first["loc"][0] == "limits" else first["loc"][0])], first["input"]
    if option == "--budget":
        value = arguments.budget[int(first["loc"][1])]
    return f"{option} {value!r}: {first['msg'].removeprefix('Value error, ')}"


def _seconds(text: str, option: str) -> int:
    from router.amounts import period  # noqa: PLC0415

    try:
        return period(text).seconds
    except ValueError as error:
        raise InvalidRequest(f"{option} {text!r}: {error}") from None
