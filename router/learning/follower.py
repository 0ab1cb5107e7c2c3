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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.records import DecisionRecord, LogEntry, Notice, packed, to_half
from policies.types import Arm, History, Snapshot, StoredPolicy
from router.errors import PointsmanError, StoreUnavailable
from router.learning import snapshot
from router.learning.history_loader import HistoryLoader
from router.learning.refit_schedule import REFIT_FIRST, next_refit, refit_soon
from router.learning.spaces import FIRST_FIT, Spaces
from router.learning.views import Moved, Views, placed
from router.ports import OutcomeLog

T = TypeVar("T")
State = dict[str, NDArray[Any]]

LOG = logging.getLogger("pointsman.learning")
AGAIN = 1.25  # so many times the texts are awaited after a fit that came to nothing
LOOK_AGAIN_S = 10.0
AGAIN_S = 1.0  # after the store was away
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
        self._before, self._entry = "", ""  # the position before that, and what stands at it
        self._log = log
        self._workshop = workshop
        self._arms = arms  # that may be chosen now
        self._folder = folder
        self._refit_every = refit_every
        self._next_refit = refit_every
        self._fit_from = FIRST_FIT  # texts
        self._fitted: dict[str, int] = {}  # judgements each policy was last refitted on
        self._options: dict[str, str] = {}  # of each policy, as JSON
        self._looked_at: asyncio.Future[None] | None = None  # done when entries may be taken in again
        self._writer = threading.Lock()  # a save that nobody waits for any more may still be at work
        self.spaces: Spaces | None = None  # where the embedder may be fitted
        self.loader: HistoryLoader | None = None  # of what operators teach
        self._aside: dict[str, asyncio.Future[None]] = {}  # what runs beside the following, by what it is

    @property
    def learned(self) -> int:
        """Judgements taken in."""
        return self.views.learned

    def has_learned(self, history: str) -> bool:
        """Whether a labelled history was taken in and every policy was refitted on it, in a space fitted on it."""
        since = self.views.histories.get(history)
        if since is None or self._fit_is_due():
            return False
        return all(self._fitted.get(name, 0) >= since for name in self.views.policies)

    def policy(self, name: str) -> StoredPolicy:
        """A policy by name. One that nobody asked for before begins with its priors and is refitted aside as soon as
        the log grows. That may take it half a minute, and all other requests would wait.

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
        """Follow the log until cancelled, fitting and refitting beside it whenever enough was learned. While the store
        is away nothing is learned; it goes on from there."""
        while True:
            try:
                return await self._run()
            except StoreUnavailable as error:
                LOG.warning("the outcome log cannot be followed, it is tried again in %g s: %s", AGAIN_S, error)
            await asyncio.sleep(AGAIN_S)

    async def _run(self) -> None:
        taken = 0
        try:
            self._begin_what_is_due()
            async for position, entry in self._log.tail(self.position):
                if self._looked_at is not None:
                    await self._still()
                await self._follow(position, entry)
                taken += 1
                if taken % AT_ONCE == 0:
                    await asyncio.sleep(0)
                self._begin_what_is_due()
        finally:
            for task in self._aside.values():
                task.cancel()
            await asyncio.gather(*self._aside.values(), return_exceptions=True)  # so that no child process is left

    async def catch_up(self, *, within_s: float = math.inf) -> bool:
        """Take in what is already in the log; False where that takes longer, and run() goes on with the rest."""
        until = time.monotonic() + within_s
        async for position, entry in self._log.tail(self.position, follow=False):
            if isinstance(entry, Notice) and within_s < math.inf:
                return False  # that takes a refit
            await self._follow(position, entry)
            if time.monotonic() > until:
                return False
        return True

    def _begin_what_is_due(self) -> None:
        if self._fit_is_due():
            self._begin("fit", self._fit)
        elif len(self.views.table) and (self.learned >= self._next_refit or self._refit_is_soon()):
            self._begin("refit", self.refit)

    def _refit_is_soon(self) -> bool:
        fitted_on = max(self._fitted.values(), default=0)
        return refit_soon(self.views.table, self.learned, fitted_on, self._refit_every)

    def _fit_is_due(self) -> bool:
        """Whether the texts have doubled since the embedder was fitted."""
        views = self.views
        return self.spaces is not None and views.texts >= max(FIRST_FIT, 2 * views.fitted_on, self._fit_from)

    def _begin(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        known = self._aside.get(what)
        if known is None or known.done():
            self._aside[what] = asyncio.ensure_future(work())

    async def _follow(self, position: str, entry: LogEntry) -> None:
        """Take in one entry, at the place it has in the log whatever it takes."""
        if isinstance(entry, Notice):
            if (refitting := self._aside.get("refit")) is not None:
                await asyncio.wait([refitting])
            try:
                while not await self._taken(entry):  # noqa: ASYNC110  (only the store knows when it is back)
                    await asyncio.sleep(LOOK_AGAIN_S)
            except Exception as error:  # the others go on, and so does this gateway as it is
                LOG.exception("%s %s cannot be taken in: %r", entry.kind, entry.name, error)
                self._fit_from, self._next_refit = min(self._fit_from, FIRST_FIT), 0
            self._reached(position, entry)
            return
        if isinstance(entry, DecisionRecord) and entry.space != self.views.space:
            entry = await self._placed(entry)
        self._take(position, entry)

    async def _taken(self, notice: Notice) -> bool:
        """False where the store is away: nothing after it is taken in before. Raises: whatever else goes wrong."""
        try:
            await self._take_notice(notice)
        except StoreUnavailable as error:
            LOG.warning("%s %s waits for the store: %s", notice.kind, notice.name, error)
            return False
        return True

    async def _placed(self, record: DecisionRecord) -> DecisionRecord:
        """A decision that was made in another space, in the one of here."""
        if self.spaces is None or len(record.context.embedding) != self.views.index.dim or not record.text_id:
            return record
        try:
            vector = await self.spaces.late_vector(record.tenant, record.text_id)
        except PointsmanError as error:
            LOG.warning("%s is taken in without its text: %s", record.decision_id, error)
            return record
        return replace(placed(record, to_half(vector)), space=self.views.space)

    async def _take_notice(self, notice: Notice) -> None:
        """Raises: whatever goes wrong."""
        if notice.kind == "embedder":
            if self.spaces is not None and notice.name != self.views.space:
                await self._move(notice, self.spaces, await self.spaces.load(notice.name))
        elif self.loader is not None:
            await self.loader.take(notice, self.views, still=self._still)
            self._next_refit = next_refit(self.learned) if self._fit_is_due() else 0  # a new space is refitted for

    async def _move(self, notice: Notice, spaces: Spaces, state: State) -> None:
        """Let everything be of another space: embed anew what is kept, refit on it aside, and change all at once."""
        views, learned = self.views, self.learned
        opened = [(known, known.record) for _, _, known in views.open.items()]
        texts = [*views.table.text_ids, *[(record.tenant, record.text_id) for _, record in opened]]
        vectors = await spaces.vectors(texts, state)
        rows = len(views.table)

        def rest() -> Moved:
            halves = to_half(vectors[rows:])
            again = [(known, packed(placed(r, half))) for (known, r), half in zip(opened, halves, strict=True)]
            return Moved(notice.name, notice.texts, *views.at(vectors[:rows]), again)

        moved = await self._apart(rest)
        fitted = await self._refitted(moved) if rows else {}
        await self._still()
        spaces.use(notice.name, state)
        views.move(moved)
        views.table.fitted()
        for name, fresh in fitted.items():
            views.policies[name].restore(fresh)
            self._fitted[name] = learned
        self._next_refit = next_refit(learned, self._refit_every)

    async def _refitted(self, moved: Moved) -> dict[str, State]:
        """Of each policy that can be refitted there, its state."""
        arms, found = self._arms(), {}
        history = await self._apart(lambda: self.views.history(arms, moved.table))
        for name, policy in list(self.views.policies.items()):
            try:
                found[name] = await self._workshop.refit(name, _copied(policy), history)
            except Exception:
                LOG.exception("policy %s could not be refitted in the space %s and keeps its state", name, moved.space)
        return found

    async def _fit(self) -> None:
        """Fit the embedder and let all who follow the log know."""
        space, texts = self.views.space, self.views.texts
        try:
            while self.spaces is not None and self.views.space == space:
                if await self.spaces.claim(space):
                    notice = await self.spaces.fit(texts)
                    self._fit_from = math.ceil(texts * AGAIN)  # should this come to nothing
                    if notice is not None:
                        await self._log.remember(notice)
                    return
                await asyncio.sleep(LOOK_AGAIN_S)  # another gateway is at it
        except Exception:
            LOG.exception("the embedder could not be fitted and stays as it is")
            self._fit_from = math.ceil(texts * AGAIN)

    async def adopt(self) -> None:
        """Let the embedder be of the space that a snapshot was made in; where that is lost, embed everything anew."""
        views, spaces = self.views, self.spaces
        if not views.space:
            return
        try:
            if spaces is None:
                raise LookupError("no features are kept here")
            spaces.use(views.space, await spaces.load(views.space))
        except Exception as error:  # nothing that is wrong with a file stops a start
            LOG.warning("the embedder's space %s cannot be had (%r): it is fitted anew", views.space, error)
            views.move(Moved("", 0, *views.at(np.zeros((len(views.table), views.index.dim), np.float32))))
            self._next_refit = 0

    def _take(self, position: str, entry: LogEntry) -> None:
        """Take in one entry. One that says what cannot be is passed over: whoever wrote it, the others go on."""
        try:
            self.views.take(entry)
        except Exception as error:  # it may say anything
            LOG.error("entry %s of the outcome log cannot be taken in and is passed over: %r", position, error)
        self._reached(position, entry)

    def _reached(self, position: str, entry: LogEntry) -> None:
        self._before, self.position, self._entry = self.position, position, snapshot.known_by(entry)

    async def refit(self) -> None:
        """Refit every policy on the whole table, off the event loop. One that cannot be refitted keeps its state.

        What comes in meanwhile is learned twice: by the old state at once, and by the new one when it takes over. So
        the result depends on the log alone and not on how long a refit takes.
        """
        learned = self.learned
        self._next_refit = next_refit(learned, self._refit_every)
        arms = self._arms()
        history = await self._apart(lambda: self.views.prepared(arms))
        self.views.table.fitted()
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
            place = self.position, self._before, self._entry
            at = snapshot.Position(*place, self.learned, dict(self._fitted), **self.views.counted())
            with self._writer:
                snapshot.save(self.views, at, self._folder, unless_newer_s=unless_newer_s)

    async def compare(self) -> None:
        """Put a snapshot aside that is not of this log. Raises: StoreUnavailable."""
        if self._folder is not None:
            await snapshot.lose_if_ahead(self._folder, self._log)

    def load(self) -> bool:
        """Read the snapshot, if there is one; False where there is none or it does not fit."""
        if self._folder is None:
            return False
        for name in snapshot.policies_in(self._folder):
            self._meet_again(name)
        found = snapshot.load(self.views, self._folder)
        if found is None:
            return False
        self.position, self._before, self._entry = found.at.position, found.at.before, found.at.entry
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
