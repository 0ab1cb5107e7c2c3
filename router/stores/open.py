"""Opens the stores a URL names, and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.errors import SettingsError
from router.ports import Leases, Ledger, OutcomeLog
from router.stores.keys import Registry
from router.stores.reports import Audit, Spending
from router.stores.sqlite import Database
from router.stores.sqlite_ledger import SqliteLedger
from router.stores.sqlite_log import SqliteLog
from router.stores.sqlite_records import SqliteAudit, SqliteShelf, SqliteSpending


class LeasingLedger(Ledger, Leases, Protocol):
    """What every ledger here is."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that is kept."""

    ledger: LeasingLedger
    log: OutcomeLog
    keys: Registry
    audit: Audit
    spend: Spending


@asynccontextmanager
async def open_stores(url: str, *, clock: Callable[[], int]) -> AsyncIterator[Stores]:
    """The stores behind `sqlite:///PATH` (`sqlite:////abs/path`) or a Redis URL. `clock` gives milliseconds since 1970.

    Raises: SettingsError, StoreUnavailable.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        async with _sqlite(Path(rest.removeprefix("/")), clock) as stores:
            yield stores
    else:
        raise SettingsError(f"cannot open a store at {url!r}: sqlite:///PATH or a redis URL is expected", param="store")


@asynccontextmanager
async def _sqlite(path: Path, clock: Callable[[], int]) -> AsyncIterator[Stores]:
    database = Database(path)
    log = SqliteLog(database)
    ledger = SqliteLedger(database, clock=clock)
    await database.open()
    try:
        await ledger.open()
        try:
            audit = SqliteAudit(database, clock=clock)
            keys = Registry(SqliteShelf(database), clock=clock)
            yield Stores(ledger, log, keys, audit, SqliteSpending(database, ledger))
        finally:
            await ledger.aclose()
    finally:
        await database.aclose()
