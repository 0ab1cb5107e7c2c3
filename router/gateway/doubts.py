"""Where what an engine said did not fit is seen: a metric each time, an audit entry and a line in the log.

Entries are bounded, so that an engine that never reports usage cannot push the rest out of the audit log: what was left
out is counted in the next entry. A store that is away loses the entry, not the answer: that is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from router.errors import StoreUnavailable
from router.gateway.metering import Doubt
from router.gateway.types import Attempt, Metrics
from router.ports import AuditTrail

LOG = logging.getLogger("pointsman.money")
MOST_A_MINUTE = 60  # entries of one kind about one model; the money itself (hold.over) is the ledger's to note


class Doubts:
    """Notes doubts about answers."""

    def __init__(self, audit: AuditTrail, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._audit, self._metrics, self._clock = audit, metrics, clock
        self._noted: dict[tuple[str, str], list[int]] = {}  # kind and model -> minute, entries in it, left out since

    async def note(self, attempt: Attempt, doubts: Iterable[Doubt]) -> None:
        """Raises: nothing."""
        for doubt in doubts:
            model = attempt.model.name
            self._metrics.doubted(model, doubt.kind)
            left_out = self._left_out(doubt.kind, model)
            if left_out < 0:
                continue
            detail: dict[str, object] = {
                "model": model,
                "tenant": attempt.principal.tenant,
                "key": attempt.principal.key_id,
            }
            detail |= dict(doubt.detail) | ({"left_out": left_out} if left_out else {})
            LOG.warning("%s: decision %s, %s", doubt.kind, attempt.decision.decision_id, detail)
            if doubt.kind != "hold.over":
                await self._write(doubt.kind, attempt.decision.decision_id, detail)

    async def _write(self, kind: str, decision_id: str, detail: dict[str, object]) -> None:
        try:
            await self._audit.note(kind, decision_id, detail)
        except StoreUnavailable as error:
            LOG.warning("The audit log has no entry of %s for decision %s: %s", kind, decision_id, error.message)

    def _left_out(self, kind: str, model: str) -> int:
        """How many entries were left out before this one; -1 where this one is too."""
        minute = int(self._clock() // 60)
        state = self._noted.setdefault((kind, model), [minute, 0, 0])
        if state[0] != minute:
            state[:2] = minute, 0
        if state[1] >= MOST_A_MINUTE:
            state[2] += 1
            return -1
        left_out, state[1], state[2] = state[2], state[1] + 1, 0
        return left_out
