"""One thread that steps every model in turn, and the bounded way into it.

Fails with QueueFull when too many jobs are under way; a step that breaks ends its model's jobs by `Job.failed`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from backends.anyprec.engine.scheduler import Job, Scheduler
from backends.anyprec.errors import AnyprecError

log = logging.getLogger(__name__)


class QueueFull(AnyprecError):
    """More choices under way than the bound allows, or the engine is closing."""


class Worker:
    """Takes jobs from any thread and runs them on its own."""

    def __init__(self, schedulers: Sequence[Scheduler], *, queue: int) -> None:
        self._schedulers = list(schedulers)
        self._most = queue
        self._arrived: deque[tuple[Scheduler, Job]] = deque()
        self._signal = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="anyprec-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still serves."""
        return self._thread.is_alive() and not self._closing

    def submit(self, scheduler: Scheduler, jobs: Sequence[Job]) -> None:
        """All jobs of one request, or none. Raises: QueueFull."""
        with self._signal:
            under_way = len(self._arrived) + sum(each.under_way for each in self._schedulers)
            if self._closing or under_way + len(jobs) > self._most:
                raise QueueFull(f"{under_way} choices under way, {len(jobs)} more asked, at most {self._most}")
            self._arrived.extend((scheduler, job) for job in jobs)
            self._signal.notify()

    def close(self) -> None:
        """Stop after the step at hand; jobs that were under way fail. Idempotent."""
        with self._signal:
            self._closing = True
            self._signal.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._collect():
            for scheduler in self._schedulers:
                if scheduler.busy:
                    self._step(scheduler)
        for scheduler in self._schedulers:
            _fail(scheduler, QueueFull("the engine is closing"))

    def _collect(self) -> bool:
        """Hand arrived jobs to their schedulers, sleeping while there is nothing to do; False when closing."""
        with self._signal:
            self._signal.wait_for(
                lambda: self._closing or bool(self._arrived) or any(each.busy for each in self._schedulers)
            )
            while self._arrived:
                scheduler, job = self._arrived.popleft()
                scheduler.add(job)
            return not self._closing

    def _step(self, scheduler: Scheduler) -> None:
        try:
            scheduler.step()
        except Exception as error:
            log.exception("a step of the embedded engine failed")
            _fail(scheduler, error)


def _fail(scheduler: Scheduler, error: BaseException) -> None:
    for job in scheduler.abandon():
        if not job.cancelled:
            job.failed(error)
