"""What the gateway needs of the world, as protocols of at most three methods each.

Every implementation of a port passes one test suite, parametrised over all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from router.types import (
    Balance,
    Budget,
    CacheRules,
    DecisionRecord,
    Feedback,
    Hold,
    LogEntry,
    Notice,
    Principal,
    Reservation,
    SettlementRecord,
    Spend,
)


class Ledger(Protocol):
    """Budgets and limits: reserve the worst case, settle the actual."""

    async def reserve(self, reservation: Reservation) -> Hold:
        """Take a hold on the first offer that fits every budget and limit, atomically.

        Raises: BudgetExceeded, RateLimited (nothing fits), StoreUnavailable.
        """

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """End a hold with what it really cost, which may be more than was held. Settling twice changes nothing.

        More than was held is charged in full and noted as `hold.over`. What was marked is charged sooner or later.
        Raises: StoreUnavailable: what was not marked is not charged, and must not be sent.
        """

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """What is left of each budget. Raises: StoreUnavailable."""


class Leases(Protocol):
    """What a ledger must know of a hold before its answer is relayed, unless it is settled before."""

    async def mark(self, hold: Hold) -> None:
        """From now on bytes may have been sent: should the lease end, the worst case is charged instead of nothing.

        Raises: StoreUnavailable: the ledger does not know, and nothing may be sent.
        """


class HoldingLedger(Ledger, Leases, Protocol):
    """A ledger that also knows what is being sent."""


class AuditTrail(Protocol):
    """Where what happened to money is written down."""

    async def note(self, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append. Raises: StoreUnavailable."""


class OutcomeLog(Protocol):
    """The truth: decisions, settlements and feedback in one order."""

    async def remember(self, record: DecisionRecord | SettlementRecord | Notice) -> None:
        """Append. Raises: StoreUnavailable."""

    async def judge(self, feedback: Feedback) -> bool:
        """Append a judgement; False where the same one is already recorded.

        `decision_id` may be a response id of the feedback's tenant. What another tenant decided is NotFound, as what
        nobody did is. Raises: NotFound, Conflict, StoreUnavailable.
        """

    def tail(self, after: str, *, follow: bool = True) -> AsyncIterator[tuple[str, LogEntry]]:
        """Entries after a position ("" is the beginning), oldest first, with theirs; waits for more if `follow`."""


class Recollection(Protocol):
    """Looks things of the outcome log up, for people."""

    async def of(self, decision_id: str) -> list[LogEntry]:
        """A decision and what came of it, oldest first; empty where it is not kept. Raises: StoreUnavailable."""

    async def latest(self, count: int) -> list[LogEntry]:
        """The last so many entries, oldest first. Raises: StoreUnavailable."""


class Conversations(Protocol):
    """Answers that clients go on from, each tenant's for itself, for a time and to a number."""

    async def keep(self, tenant: str, name: str, body: bytes) -> None:
        """Keep it under a name of the tenant's; the oldest go. Raises: StoreUnavailable."""

    async def find(self, tenant: str, name: str) -> bytes | None:
        """What is kept; None where this tenant keeps nothing of that name. Raises: StoreUnavailable."""

    async def forget(self, tenant: str, name: str) -> bool:
        """Whether there was something to forget. Raises: StoreUnavailable."""


class StoredAnswers(Protocol):
    """Answers that may be given again, each tenant's for itself, for a time and to a size."""

    async def keep(self, tenant: str, answers: Mapping[str, bytes], rules: CacheRules) -> None:
        """Keep them under names of the tenant's, in the place of what had these; those that end first make room.

        Raises: StoreUnavailable.
        """

    async def find(self, tenant: str, name: str) -> bytes | None:
        """What is kept and has not ended; None where this tenant has nothing of that name. Raises: StoreUnavailable."""

    async def forget(self, tenant: str, name: str | None = None) -> int:
        """Forget one, or all of the tenant's; how many there were. Raises: StoreUnavailable."""


class Cipher(Protocol):
    """Encrypts what is kept."""

    def encrypt(self, data: bytes) -> bytes:
        """As it is stored."""

    def decrypt(self, token: bytes) -> bytes:
        """As it was. Raises: whatever another key or damage leads to."""


class Archived(NamedTuple):
    """One thing of an archive."""

    owner: str
    name: str
    body: bytes


class Archive(Protocol):
    """What learning keeps for all gateways, by room, owner and name: counts of texts, labelled rows, projections."""

    async def put(self, room: str, owner: str, things: Mapping[str, bytes], *, most: int | None = None) -> int:
        """Keep those whose name is not taken; how many. Beyond `most` things in the room the oldest go, some at once.

        Raises: StoreUnavailable.
        """

    def each(self, room: str, owner: str = "", names: Sequence[str] = ()) -> AsyncIterator[Archived]:
        """What is kept, oldest first: of one owner, or of all where none is named; of these names in any order.

        Raises: StoreUnavailable.
        """

    async def drop(self, room: str, owner: str) -> int:
        """Forget all of one owner; how many there were. Raises: StoreUnavailable."""


class Keys(Protocol):
    """Who a secret belongs to."""

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        """The principal of a valid key; None where it is unknown, disabled or expired. Raises: StoreUnavailable."""
