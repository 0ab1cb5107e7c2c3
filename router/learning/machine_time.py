"""How much of a backend's machines each answer took, read from the outcome log.

A request holds its backend from its decision to its settlement, and whoever holds it at the same moment shares it
evenly. While R requests run on k engines, each takes min(1, k/R) of one. The integral of that, for each backend, is its
virtual time (Demers, Keshav and Shenker, 1989: fair queueing), so that an answer's share is one subtraction. Where
nothing runs no time passes, so idle hours cost nothing. Every replica follows the same log, so all agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.machine_time import MachineTime
from router.types import DecisionRecord, LogEntry, SettlementRecord

LONGEST_MS = 600_000  # a decision without a settlement after this long was lost with its gateway


class MachineTimeAccounting:
    """Follows the log and teaches `time`. `engines` says how many a backend has; 0: it is not measured."""

    def __init__(self, engines: Callable[[str], int], *, longest_ms: int = LONGEST_MS) -> None:
        self.time = MachineTime()
        self._engines = engines
        self._longest_ms = longest_ms
        self._running: OrderedDict[str, tuple[str, float, int]] = OrderedDict()  # backend, its clock then, at_ms
        self._clocks: dict[str, tuple[float, int, int]] = {}  # virtual seconds, at_ms, running

    def take(self, entry: LogEntry) -> None:
        """Take in one entry of the log."""
        if isinstance(entry, DecisionRecord):
            if self._engines(entry.backend):
                self._begin(entry)
        elif isinstance(entry, SettlementRecord):
            self._end(entry)

    def running(self, backend: str) -> int:
        """Requests under way at a backend, by the log."""
        return self._clocks.get(backend, (0.0, 0, 0))[2]

    def _begin(self, entry: DecisionRecord) -> None:
        self._forget_lost(entry.at_ms)
        seconds = self._advance(entry.backend, entry.at_ms, change=1)
        self._running[entry.decision_id] = entry.backend, seconds, entry.at_ms

    def _end(self, entry: SettlementRecord) -> None:
        known = self._running.pop(entry.decision_id, None)
        if known is None:
            return
        backend, began, _ = known
        seconds = self._advance(backend, entry.at_ms, change=-1)
        if entry.outcome == "settled":
            self.time.learn(
                entry.model,
                prompt_tokens=entry.prompt_tokens,
                completion_tokens=entry.completion_tokens,
                seconds=seconds - began,
            )

    def _advance(self, backend: str, at_ms: int, *, change: int) -> float:
        """The backend's virtual seconds at this moment; from now on `change` more run."""
        seconds, last_ms, running = self._clocks.get(backend, (0.0, at_ms, 0))
        if running and at_ms > last_ms:
            seconds += (at_ms - last_ms) / 1000.0 * min(1.0, self._engines(backend) / running)
        self._clocks[backend] = seconds, max(last_ms, at_ms), running + change
        return seconds

    def _forget_lost(self, now_ms: int) -> None:
        while self._running:
            decision_id, (backend, _, began_ms) = next(iter(self._running.items()))
            if now_ms - began_ms <= self._longest_ms:
                return
            del self._running[decision_id]
            self._advance(backend, now_ms, change=-1)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        running, clocks = list(self._running.values()), list(self._clocks.values())
        own: dict[str, NDArray[np.generic]] = {
            "ids": np.array(list(self._running), np.str_),
            "at": np.array([backend for backend, _, _ in running], np.str_),
            "began": np.array([began for _, began, _ in running], np.float64),
            "began_ms": np.array([at_ms for _, _, at_ms in running], np.int64),
            "backends": np.array(list(self._clocks), np.str_),
            "seconds": np.array([seconds for seconds, _, _ in clocks], np.float64),
            "counts": np.array([(at_ms, count) for _, at_ms, count in clocks], np.int64).reshape(-1, 2),
        }
        return own | {f"time.{key}": value for key, value in self.time.state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        self.time.restore({key.removeprefix("time."): state[key] for key in state if key.startswith("time.")})
        places = [state[key].tolist() for key in ("ids", "at", "began", "began_ms")]
        self._running = OrderedDict((name, (at, began, ms)) for name, at, began, ms in zip(*places, strict=True))
        clocks = zip(*(state[key].tolist() for key in ("backends", "seconds", "counts")), strict=True)
        self._clocks = {name: (seconds, at_ms, count) for name, seconds, (at_ms, count) in clocks}
