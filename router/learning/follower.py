"""Follows the outcome log, so that the views of the past grow while requests are answered, and refits beside it.

Each replica follows the same log in the same order, so each arrives at the same views. A policy that cannot be refitted
keeps its state, and a snapshot that cannot be read costs a replay of the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.records import LogEntry
from policies.types import Arm, History, Snapshot, StoredPolicy
from router.learning import snapshot
from router.learning.views import REFIT_FIRST, Views, next_refit
from router.ports import OutcomeLog

T = TypeVar("T")
State = dict[str, NDArray[Any]]

LOG = logging.getLogger("pointsman.learning")
AT_ONCE = 32  # entries taken in between two turns of the loop: a millisecond or two


class Workshop(Protocol):
    """Where policies are made and refitted."""

    def build(self, name: str) -> StoredPolicy:
        """A policy as nobody taught it. Raises: ValueError naming the policies there are."""

    def options_of(self, name: str) -> Mapping[str, object]:
        """What was set of it."""

    async def refit(self, name: str, state: State, history: History) -> State:
        """The state of a named policy after refit(history), from the state it has now."""


class Learning:
    """Keeps the views up to date. `position` is the log position reached."""

    def __init__(
        self,
        log: OutcomeLog,
        views: Views,
        workshop: Workshop,
        *,
        arms: Callable[[], Sequence[Arm]],
        folder: Path | None,
        refit_every: int = REFIT_FIRST,
    ) -> None:
        self.views = views
        self.position = ""
        self._log = log
        self._workshop = workshop
        self._arms = arms  # that may be chosen now
        self._folder = folder
        self._refit_every = refit_every
        self._next_refit = refit_every
        self._fitted: dict[str, int] = {}  # judgements each policy was last refitted on
        self._options: dict[str, str] = {}  # of each policy, as JSON
        self._looked_at: asyncio.Future[None] | None = None  # done when entries may be taken in again
        self._writer = threading.Lock()  # a save that nobody waits for any more may still be at work

    @property
    def learned(self) -> int:
        """Judgements taken in."""
        return self.views.learned

    def policy(self, name: str) -> StoredPolicy:
        """A policy by name. One that nobody asked for before begins with its priors and is refitted aside as soon as
        the log grows: that may take it half a minute, and all other requests would wait.

        Raises: ValueError naming the policies there are.
        """
        policy = self.views.policies.get(name)
        if policy is None:
            policy = self.views.policies[name] = self._workshop.build(name)
            if len(self.views.table):
                self._next_refit = 0
        return policy

    def version(self, name: str) -> str:
        """Of the state a policy has now: how far it followed the log, judgements it was refitted on, what was set."""
        options = self._options.get(name)
        if options is None:
            written = self._workshop.options_of(name)
            options = self._options[name] = f" {json.dumps(dict(written), sort_keys=True)}" if written else ""
        return f"{self.position}+{self._fitted.get(name, 0)}{options}"

    async def run(self) -> None:
        """Follow the log until cancelled, refitting beside it whenever enough was learned."""
        refitting: asyncio.Future[None] | None = None
        taken = 0
        try:
            async for position, entry in self._log.tail(self.position):
                if self._looked_at is not None:
                    await self._still()
                self._take(position, entry)
                taken += 1
                if taken % AT_ONCE == 0:
                    await asyncio.sleep(0)
                if self.learned >= self._next_refit and (refitting is None or refitting.done()):
                    refitting = asyncio.ensure_future(self.refit())
        finally:
            if refitting is not None:
                refitting.cancel()

    async def catch_up(self, *, within_s: float = math.inf) -> bool:
        """Take in what is already in the log; False where that takes longer, and run() goes on with the rest."""
        until = time.monotonic() + within_s
        async for position, entry in self._log.tail(self.position, follow=False):
            self._take(position, entry)
            if time.monotonic() > until:
                return False
        return True

    def _take(self, position: str, entry: LogEntry) -> None:
        """Take in one entry. One that says what cannot be is passed over: whoever wrote it, the others go on."""
        try:
            self.views.take(entry)
        except Exception as error:  # it may say anything
            LOG.error("entry %s of the outcome log cannot be taken in and is passed over: %r", position, error)
        self.position = position

    async def refit(self) -> None:
        """Refit every policy on the whole table, off the event loop. One that cannot be refitted keeps its state.

        What comes in meanwhile is learned twice: by the old state at once, and by the new one when it takes over; so
        the result depends on the log alone and not on how long a refit takes.
        """
        learned = self.learned
        self._next_refit = next_refit(learned, self._refit_every)
        arms = self._arms()
        history = await self._apart(lambda: self.views.prepared(arms))
        states = {name: _copied(policy) for name, policy in self.views.policies.items()}
        self.views.meanwhile = {name: [] for name in states}  # of all: what they know now is older than their turn
        try:
            for name, state in states.items():
                await self._refit_one(name, state, history, learned)
        finally:
            self.views.meanwhile = {}

    async def _refit_one(self, name: str, state: State, history: History, learned: int) -> None:
        policy = self.views.policies[name]
        try:
            fitted = await self._workshop.refit(name, state, history)
            await self._still()
            policy.restore(fitted)
            for outcome in self.views.meanwhile.pop(name):
                policy.learn(outcome)
            self._fitted[name] = learned
        except Exception:
            LOG.exception("policy %s could not be refitted on %d rows and keeps its state", name, len(history.scores))

    async def snapshot(self, *, unless_newer_s: float = 0.0) -> None:
        """save() in a thread, all of one moment. Raises: OSError."""
        await self._apart(lambda: self.save(unless_newer_s=unless_newer_s))

    async def _apart(self, work: Callable[[], T]) -> T:
        """What `work` makes of the views in a thread. What comes in meanwhile waits."""
        await self._still()
        self._looked_at = looked_at = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.to_thread(work)
        finally:
            self._looked_at = None
            looked_at.set_result(None)

    async def _still(self) -> None:
        """Wait while a thread looks at the views."""
        while self._looked_at is not None:
            await asyncio.shield(self._looked_at)

    def save(self, *, unless_newer_s: float = 0.0) -> None:
        """Write a snapshot, unless another process does or has just done so. Raises: OSError."""
        if self._folder is not None:
            at = snapshot.Position(self.position, self.learned, dict(self._fitted))
            with self._writer:
                snapshot.save(self.views, at, self._folder, unless_newer_s=unless_newer_s)

    def load(self) -> bool:
        """Read the snapshot, if there is one; False where there is none or it does not fit."""
        if self._folder is None:
            return False
        for name in snapshot.policies_in(self._folder):
            self._meet_again(name)
        found = snapshot.load(self.views, self._folder)
        if found is None:
            return False
        self.position = found.at.position
        for name in found.unfit:  # half a state may have been taken in
            self.views.policies[name] = self._workshop.build(name)
        self._fitted = {name: at for name, at in found.at.fitted.items() if name not in found.unfit}
        self._next_refit = 0 if found.unfit else self._due()
        return True

    def _meet_again(self, name: str) -> None:
        """Build a policy that a request once named, so that a restart changes none of its decisions either."""
        if name not in self.views.policies:
            try:
                self.views.policies[name] = self._workshop.build(name)
            except ValueError as error:
                LOG.warning("the snapshot's policy %s cannot be built any more: %s", name, error)

    def _due(self) -> int:
        """When the next refit is due, by the last one of any policy."""
        last = max(self._fitted.values(), default=0)
        return next_refit(last, self._refit_every) if last else self._refit_every


def _copied(policy: Snapshot) -> State:
    """A policy's state, which goes on changing."""
    return {key: np.array(value) for key, value in policy.state().items()}
