"""Opens the stores a URL names, and closes them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

from router.errors import SettingsError, StoreUnavailable
from router.ports import Archive, Conversations, Leases, Ledger, OutcomeLog, Recollection, StoredAnswers
from router.stores.keys import RecordStore, Registry
from router.stores.reports import Audit, Spending
from router.stores.retention import Retention, retention_of
from router.stores.sqlite.answers import SqliteAnswers
from router.stores.sqlite.archive import SqliteArchive
from router.stores.sqlite.conversations import SqliteConversations
from router.stores.sqlite.database import Database
from router.stores.sqlite.ledger import SqliteLedger
from router.stores.sqlite.log import SqliteLog
from router.stores.sqlite.records import SqliteAudit, SqliteRecordStore, SqliteSpending
from router.stores.sqlite.timekeeping import Timekeeper


class LeasingLedger(Ledger, Leases, Protocol):
    """What every ledger here is."""

    async def tend(self) -> None:
        """Renew and expire leases and settle what was kept; it does so by itself every half second."""

    async def check(self) -> None:
        """Write something. Raises: StoreUnavailable: nothing can be reserved now."""


class RecallingLog(OutcomeLog, Recollection, Protocol):
    """What every outcome log here is."""


class MoneyClock(Protocol):
    """The clock of the one machine on which a ledger lies."""

    def jump_ms(self) -> int:
        """By how much it has jumped; while this is not 0, nothing is reserved."""

    async def confirm_clock(self, by: str) -> None:
        """Believe it as it is now. Raises: StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that is kept."""

    ledger: LeasingLedger
    log: RecallingLog
    keys: Registry
    audit: Audit
    spend: Spending
    conversations: Conversations
    archive: Archive
    answers: StoredAnswers
    records: RecordStore
    refused: Counter[str] = field(
        default_factory=Counter
    )  # settlements charged at their worst case, by who refused them
    clock: MoneyClock | None = None  # None: the store's own orders the money


@asynccontextmanager
async def open_stores(
    url: str, *, clock: Callable[[], int], boot: Callable[[], int] | None = None
) -> AsyncIterator[Stores]:
    """The stores behind `sqlite:///PATH` (`sqlite:////abs/path`) or a Redis URL. `clock` gives milliseconds since 1970.

    `boot` gives milliseconds since the machine was booted: what SQLite's ledger compares the clock with; None: nothing.

    The query may set `log_entries` and `audit_entries`, see Retention; for Redis see `connect` too.
    Raises: SettingsError, StoreUnavailable.
    """
    scheme, _, rest = url.partition("://")
    rest, _, text = rest.partition("?")
    query = {name: values[-1] for name, values in parse_qs(text).items()}
    kept = retention_of(query)
    if scheme == "sqlite":
        async with _sqlite(Path(rest.removeprefix("/")), Timekeeper(clock, boot=boot), kept) as stores:
            yield stores
    elif scheme in ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster"):
        async with _redis(url, clock, kept, query) as stores:
            yield stores
    else:
        raise SettingsError(
            f"cannot open a store {scheme[:20]!r}: sqlite:///PATH or a redis URL is expected", param="store"
        )


@asynccontextmanager
async def _sqlite(path: Path, time: Timekeeper, kept: Retention) -> AsyncIterator[Stores]:
    clock = time.now_ms
    database = Database(path)
    log = SqliteLog(database, kept=kept.log_entries)
    audit = SqliteAudit(database, clock=clock, kept=kept.audit_entries)
    ledger = SqliteLedger(database, time=time, audit=audit)
    records = SqliteRecordStore(database, changed=ledger.keys_changed)
    keys = ledger.revocations = Registry(records, clock=clock)
    await database.open()
    try:
        await ledger.open()
        try:
            conversations = SqliteConversations(database, clock=clock, kept=kept.conversations)
            archive, answers = SqliteArchive(database), SqliteAnswers(database, clock=clock)
            kept_by = (ledger, log, keys, audit, SqliteSpending(database), conversations, archive, answers, records)
            yield Stores(*kept_by, ledger.refused, ledger)
        finally:
            await ledger.aclose()
            with contextlib.suppress(StoreUnavailable):  # what waits is lost with the file
                await log.aclose()
    finally:
        await database.aclose()


@asynccontextmanager
async def _redis(
    url: str, clock: Callable[[], int], kept: Retention, query: Mapping[str, str]
) -> AsyncIterator[Stores]:
    # six megabytes and a tenth of a second that SQLite does without
    from router.stores.redis.answers import RedisAnswers  # noqa: PLC0415
    from router.stores.redis.archive import RedisArchive  # noqa: PLC0415
    from router.stores.redis.connection import connect  # noqa: PLC0415
    from router.stores.redis.conversations import RedisConversations  # noqa: PLC0415
    from router.stores.redis.ledger import RedisLedger  # noqa: PLC0415
    from router.stores.redis.log import RedisLog  # noqa: PLC0415
    from router.stores.redis.outbox import Outbox  # noqa: PLC0415
    from router.stores.redis.records import RedisAudit, RedisRecordStore, RedisSpending  # noqa: PLC0415

    link = connect(url)
    outbox = Outbox(Path(query["outbox"])) if query.get("outbox") else None
    audit = RedisAudit(link, clock=clock, kept=kept.audit_entries)
    accepts = query.get("eviction") == "accepted"
    ledger = RedisLedger(link, clock=clock, audit=audit, outbox=outbox, accepts_eviction=accepts)
    log = RedisLog(link, kept=kept.log_entries)
    records = RedisRecordStore(link, clock=clock, audit=audit)
    ledger.repeat_records = records.repeat_lost
    keys = ledger.revocations = Registry(records, clock=clock)
    try:
        await ledger.open()
        try:
            await audit.open()
            conversations = RedisConversations(link, clock=clock, kept=kept.conversations)
            archive, answers = RedisArchive(link, clock=clock), RedisAnswers(link, clock=clock)
            kept_by = (ledger, log, keys, audit, RedisSpending(link), conversations, archive, answers, records)
            yield Stores(*kept_by, ledger.refused)
        finally:
            await ledger.aclose()
            await log.aclose()
    finally:
        await link.aclose()
