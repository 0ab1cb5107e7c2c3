"""Settlements on their way to Redis, and those that it may yet lose: each is charged once, or at its worst case once.

Fails with StoreUnavailable while Redis is away; what was handed over by `later` is told when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from router.errors import StoreUnavailable
from router.stores.redis.connection import Link, ScriptRejected
from router.stores.redis.outbox import Outbox, Words
from router.stores.redis.records import RedisAudit
from router.stores.redis.replication import Replication, Unreplicated
from router.stores.redis.settlement import ANY, Settlement

LOG = logging.getLogger("pointsman.ledger")
DISK_S = 5.0  # Redis loses a second or two of its append-only file at most
MOST_KEPT = 20_000  # settlements of one process that a replica does not have; about 20 MB
AT_ONCE = 500  # calls sent together after a restart
KNOWN_S = 60.0  # how long Redis knows of an end that is on no disk here any more: a power cut may bring it back


class Settling:
    """The settlements of one process."""

    def __init__(self, link: Link, *, clock: Callable[[], int], audit: RedisAudit, outbox: Outbox | None) -> None:
        self._link, self._clock, self._audit, self._outbox = link, clock, audit, outbox
        self.refused: Counter[str] = Counter()  # what could not be charged as it was, by where it was refused
        self._waiting: dict[str, Settlement] = {}
        self._unreplicated = Unreplicated(most=MOST_KEPT)
        self._acknowledged: dict[str, float] = {}  # decision id -> since when its end need not be known
        self._fell_behind = False

    async def end(self, settlement: Settlement) -> int:
        """What the settle script answers, once Redis has it. One it refuses is charged at its worst case instead.

        Raises: StoreUnavailable; ScriptRejected where it refuses that too: it must not be told again.
        """
        try:
            found = await self._tell(settlement)
        except ScriptRejected as error:
            await self.note_refusal(settlement.decision_id, settlement.who, settlement.held, str(error), where="redis")
            settlement = settlement.at_worst()
            found = await self._tell(settlement)
        is_known = settlement.decision_id in self._unreplicated
        if found > 0 or (found == 0 and not is_known):  # else another word was first
            settlement = msgspec.structs.replace(settlement, charges=ANY)  # should it be lost, it is charged
            self._unreplicated.add(settlement, asyncio.get_running_loop().time())
            self.promise(settlement)
        return found

    def promise(self, settlement: Settlement) -> None:
        """Should this process die, whoever takes its outbox over settles this."""
        if self._outbox is not None:
            with contextlib.suppress(StoreUnavailable):  # a full disk must not keep Redis from hearing of it
                self._outbox.add(settlement.decision_id, settlement.words())

    def later(self, settlement: Settlement) -> None:
        """Redis is told when it is back."""
        self._waiting[settlement.decision_id] = settlement

    def held_again(self, decision_id: str) -> None:
        """An earlier hold of the same decision has ended, and nothing of it must be told any more."""
        self._waiting.pop(decision_id, None)
        self._acknowledged.pop(decision_id, None)
        self._unreplicated.drop(decision_id)

    async def note_refusal(self, decision_id: str, who: str, charged: int, why: str, *, where: str) -> None:
        """Count, log and audit a settlement that is charged at its worst case because nobody can charge it as it is."""
        self.refused[where] += 1
        LOG.error(
            "The settlement of %s is refused (%s); %d nano-USD, its worst case, are charged.", decision_id, why, charged
        )
        with contextlib.suppress(StoreUnavailable):
            await self._audit.note("settlement.refused", decision_id, {"who": who, "charged": charged, "reason": why})

    async def settle_waiting(self) -> None:
        """Tell Redis what was kept for later. Raises: StoreUnavailable."""
        for decision_id, settlement in list(self._waiting.items()):
            await self._end_or_say([settlement])
            if self._waiting.get(decision_id) is settlement:
                del self._waiting[decision_id]

    async def repeat_lost(self, reported: Replication) -> None:
        """Tell a Redis that has restarted or was promoted all that it may have lost. Raises: StoreUnavailable."""
        await self._end_or_say(self._unreplicated.lost(reported))

    async def take_over(self) -> None:
        """Settle what dead processes of this machine promised: their last word. Raises: StoreUnavailable."""
        for promised in self._outbox.orphans() if self._outbox is not None else ():
            await self._end_or_say([each for words in promised.values() if (each := _settlement_of(words)) is not None])

    async def _end_or_say(self, settlements: Sequence[Settlement]) -> None:
        """End these holds; one that can not be charged at all is said, and keeps nobody waiting."""

        async def one(settlement: Settlement) -> None:
            try:
                await self.end(settlement)
            except ScriptRejected:
                LOG.exception("The settlement of %s cannot be charged.", settlement.decision_id)

        for i in range(0, len(settlements), AT_ONCE):
            await asyncio.gather(*(one(each) for each in settlements[i : i + AT_ONCE]))

    def heard(self, reported: Replication, lately: list[str], *, asked_s: float, age_s: float | None = None) -> None:
        """Redis told where it stands: forget what it cannot lose any more, and is older than `age_s` or DISK_S."""
        now_s = asyncio.get_running_loop().time()
        self._unreplicated.heard(reported, lately, asked_s)
        self._acknowledge(self._unreplicated.safe(now_s, age_s=DISK_S if age_s is None else age_s), now_s)
        too_many = self._unreplicated.overflow()
        self._acknowledge(too_many, now_s)
        if too_many and not self._fell_behind:
            LOG.error(
                "Redis may still lose %d settlements: its disk or a replica is behind. Older ones are kept as sums.",
                len(self._unreplicated),
            )
        self._fell_behind = bool(too_many) or (self._fell_behind and len(self._unreplicated) > 0)

    def forgettable(self, most: int, *, known_s: float = KNOWN_S) -> list[str]:
        """Ends that Redis need not know of any more."""
        before_s = asyncio.get_running_loop().time() - known_s
        found: list[str] = []
        for decision_id, since_s in self._acknowledged.items():
            if since_s > before_s or len(found) == most:
                break
            found.append(decision_id)
        return found

    def forgotten(self, decision_ids: list[str]) -> None:
        """Redis knows of these ends no more."""
        for decision_id in decision_ids:
            self._acknowledged.pop(decision_id, None)

    def close(self) -> None:
        """Leave to others what Redis may yet lose."""
        if self._outbox is not None:
            self._outbox.close()

    async def _tell(self, settlement: Settlement) -> int:
        return int(await self._link.call("settle", self._clock(), *settlement.words()))

    def _acknowledge(self, decision_ids: list[str], now_s: float) -> None:
        safe = [each for each in decision_ids if each not in self._waiting]
        if self._outbox is not None:
            with contextlib.suppress(StoreUnavailable):
                self._outbox.acknowledge(safe)
        for decision_id in safe:
            self._acknowledged[decision_id] = now_s


def _settlement_of(words: Words) -> Settlement | None:
    """What another process, perhaps of another version, promised; None where that cannot be understood."""
    try:
        return msgspec.convert(words, Settlement)
    except msgspec.ValidationError as error:
        LOG.error("A killed gateway's settlement %s cannot be understood and is not charged: %s", words[:1], error)
        return None
