"""What Redis has and may yet lose: settlements its disk or a replica may not have, until they do. Pure; fails nowhere.

A settlement is safe when it is older than what the disk may lose, and every replica that was seen lately has said that
it has it. Where a replica stays behind for too long, the oldest settlements are only kept as sums. If that replica is
promoted they are charged all together, whether or not it had some of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from router.stores.redis.settlement import Settlement, as_words, of_words


@dataclass(frozen=True, slots=True)
class Replication:
    """Where a Redis stands among others, as `INFO replication` says it."""

    offset: int = 0  # of the last byte it has written
    lineage: str = ""  # of its data: another one after a restart or a promotion
    earlier: str = ""  # the lineage it was promoted from …
    forked_at: int = -1  # … and how far it had come in it; -1: it was not promoted
    replicas: dict[str, int] = field(default_factory=dict)  # address -> offset it has acknowledged


def replication_of(text: str) -> Replication:
    """Reads `INFO replication`; what is not there is as in a Redis without replicas."""
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    replicas = {}
    for name, value in found.items():
        if name.startswith("slave") and name[5:].isdecimal():
            of = dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
            if of.get("state") == "online":
                replicas[f"{of.get('ip')}:{of.get('port')}"] = int(of.get("offset", 0))
    forked_at = int(found.get("second_repl_offset", -1))
    return Replication(
        int(found.get("master_repl_offset", 0)),
        found.get("master_replid", ""),
        found.get("master_replid2", ""),
        forked_at - 1 if forked_at > 0 else -1,
        replicas,
    )


class Kept(msgspec.Struct, gc=False):
    """A settlement that Redis has confirmed."""

    settlement: Settlement
    at_s: float  # of the loop's clock
    offset: int = 0  # Redis had written this much when it was there


class Unreplicated:
    """The settlements of one process that Redis may yet lose."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._fresh: dict[str, Kept] = {}  # it is not known yet which offset they lie before
        self._placed: dict[str, Kept] = {}  # by offset, ascending
        self._sums: dict[tuple[str, bytes], Settlement] = {}
        self._sums_until = 0  # the offset of the last one that is only kept as a sum
        self._seen: dict[str, int] = {}  # replicas -> the last offset they acknowledged
        self.lineage = ""

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._fresh) + len(self._placed)

    def __contains__(self, decision_id: object) -> bool:
        """Whether a settlement of this decision is kept."""
        return decision_id in self._fresh or decision_id in self._placed

    def add(self, settlement: Settlement, at_s: float) -> None:
        """Redis has confirmed it."""
        self.drop(settlement.decision_id)
        self._fresh[settlement.decision_id] = Kept(settlement, at_s)

    def drop(self, decision_id: str) -> None:
        """It must not be repeated: the same decision is being held again."""
        self._fresh.pop(decision_id, None)
        self._placed.pop(decision_id, None)

    def heard(self, reported: Replication, lately: Iterable[str], asked_s: float) -> None:
        """Redis told this when it was asked at `asked_s`; `lately`: replicas that were seen in the last minutes."""
        for decision_id, kept in list(self._fresh.items()):
            if kept.at_s <= asked_s:
                del self._fresh[decision_id]
                kept.offset = reported.offset
                self._placed[decision_id] = kept
        self._seen = {address: self._seen.get(address, 0) for address in lately} | reported.replicas
        self.lineage = reported.lineage

    def safe(self, now_s: float, *, age_s: float) -> list[str]:
        """Those that cannot be lost any more; they are kept no longer."""
        replicated = self._replicated()
        found = []
        for decision_id, kept in self._placed.items():
            if kept.at_s > now_s - age_s or kept.offset > replicated:
                break
            found.append(decision_id)
        for decision_id in found:
            del self._placed[decision_id]
        if self._sums and self._sums_until <= replicated:
            self._sums.clear()
        return found

    def overflow(self) -> list[str]:
        """Those that are too many, the oldest first: from now on they are only part of a sum."""
        found = []
        while len(self) > self._most and self._placed:
            decision_id = next(iter(self._placed))
            kept = self._placed.pop(decision_id)
            self._sums_until = max(self._sums_until, kept.offset)
            self._sum(kept.settlement)
            found.append(decision_id)
        return found

    def lost(self, reported: Replication) -> list[Settlement]:
        """Everything to say again to a Redis that has restarted or was promoted: all is fresh from now on."""
        behind = reported.forked_at >= 0 and (reported.earlier != self.lineage or reported.forked_at < self._sums_until)
        sums = {sum.decision_id: Kept(sum, 0.0) for sum in self._sums.values()} if behind else {}
        self._fresh = {**sums, **self._placed, **self._fresh}
        self._placed, self._sums, self._sums_until, self._seen = {}, {}, 0, {}
        return [kept.settlement for kept in self._fresh.values()]

    def _replicated(self) -> float:
        return min(self._seen.values(), default=float("inf"))

    def _sum(self, one: Settlement) -> None:
        if one.outcome == "released":
            return
        key = (one.who, one.plan)
        known = self._sums.get(key)
        if known is None:
            name = f"{one.owner}+{one.decision_id}"
            self._sums[key] = msgspec.structs.replace(one, decision_id=name, held=one.cost)
            return
        cost = known.cost + one.cost
        tokens = (known.prompt_tokens + one.prompt_tokens, known.completion_tokens + one.completion_tokens)
        parts = as_words(of_words(known.parts) + of_words(one.parts))
        self._sums[key] = msgspec.structs.replace(
            known, cost=cost, held=cost, prompt_tokens=tokens[0], completion_tokens=tokens[1], parts=parts
        )
