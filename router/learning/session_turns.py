"""Which answers came before another in a conversation, so that a judgement of the last is heard of by those; from the
log alone.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from policies.records import DecisionRecord, SettlementRecord
from router.learning.prompt_caches import KEPT_S, SESSION

SOURCE = "session"  # of a judgement that was given to a later turn
MOST = 20_000  # conversations that are remembered
MOST_TURNS = 32  # of one, the latest
LEAST = 0.05  # of a judgement, below which nothing is passed on


class SessionTurns:
    """Follows settlements. State: the latest decisions of each conversation."""

    def __init__(self) -> None:
        self._turns: OrderedDict[tuple[str, str], deque[tuple[str, str | None, float]]] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str], str] = OrderedDict()  # by tenant and decision, or response

    def settled(self, record: DecisionRecord, paid: SettlementRecord) -> None:
        """One answer of a conversation."""
        session = record.metadata.get(SESSION)
        if session is None or paid.outcome != "settled":
            return
        key = record.tenant, session
        turns = self._turns.pop(key, None) or deque(maxlen=MOST_TURNS)
        turns.append((paid.decision_id, paid.response_id, paid.at_ms / 1000))
        self._turns[key] = turns
        for name in filter(None, (paid.decision_id, paid.response_id)):
            self._sessions[record.tenant, name] = session
        while len(self._turns) > MOST:
            self._turns.popitem(last=False)
        while len(self._sessions) > 4 * MOST:
            self._sessions.popitem(last=False)

    def before(self, tenant: str, judged: str) -> list[str]:
        """Decisions of the turns before the one of this decision or response, the latest first; those of a conversation
        that paused for longer than caches last are of another matter."""
        turns = list(self._turns.get((tenant, self._sessions.get((tenant, judged), "")), ()))
        place = next((at for at, turn in enumerate(turns) if judged in turn[:2]), 0)
        found = []
        for at in range(place, 0, -1):
            if turns[at][2] - turns[at - 1][2] > KEPT_S:
                break
            found.append(turns[at - 1][0])
        return found


def credits(share: float, turns: int) -> list[float]:
    """What is passed on to each earlier turn, the latest first."""
    if share <= 0.0:
        return []
    found = [share ** (back + 1) for back in range(turns)]
    return [each for each in found if each >= LEAST]
