"""Runs many answers through one model at once: every step serves every running answer, at its own width.

New answers join and finished ones leave between steps (continuous batching). Answers wait, in order, while the running
ones hold all slots or all of the key-value memory. A long prompt is read in pieces so that others are not held up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.anyprec.engine.detokenizer import Detokenizer, Piece
from backends.anyprec.engine.llama import Cache, Llama, NewTokens
from backends.anyprec.engine.sampling import Sampler, Sampling
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import Variant

MOST_RUNNING = 16
CACHE_BYTES = 16_000_000  # of keys and values; one answer may always run
PROMPT_PIECE = 256  # tokens read in one step


@dataclass(slots=True, eq=False)
class Job:
    """One choice of one request."""

    prompt: Sequence[int]
    variant: Variant
    sampling: Sampling
    seed: int
    deliver: Callable[[Piece], None]  # called on the worker's thread, as is
    failed: Callable[[BaseException], None]  # when the engine breaks or closes
    cancelled: bool = False  # set from any thread; the job leaves before the next step
    pending: list[int] = field(default_factory=list)  # tokens not yet in the cache
    cache: Cache | None = None
    answer: Detokenizer | None = None
    sampler: Sampler | None = None


@dataclass(frozen=True, slots=True)
class SchedulerLoad:
    """What /metrics tells."""

    running: int
    waiting: int
    cache_usage: float  # 0 … 1


class Scheduler:
    """Steps one model. Owned by one thread; `Job.cancelled` and `load` may be touched from others."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, *, eos: frozenset[int]) -> None:
        self.model, self.tokenizer, self.eos = model, tokenizer, eos
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    @property
    def under_way(self) -> int:
        """Jobs running or waiting."""
        return len(self._running) + len(self._waiting)

    @property
    def load(self) -> SchedulerLoad:
        """A glance from any thread."""
        return SchedulerLoad(len(self._running), len(self._waiting), min(1.0, self._reserved() / CACHE_BYTES))

    def add(self, job: Job) -> None:
        """Queue a job; it runs from the next step on."""
        self._waiting.append(job)

    def abandon(self) -> list[Job]:
        """Forget every job and return them: after a failure, or when closing."""
        dropped = [*self._running, *self._waiting]
        self._running, self._waiting = [], deque()
        return dropped

    def step(self) -> None:
        """One forward pass for every running job."""
        self._drop_cancelled()
        self._admit()
        if not self._running:
            return
        self._running.sort(key=lambda job: job.variant)
        runs = [_next_run(job) for job in self._running]
        logits = self.model.forward(runs)
        for job, run, row in zip(self._running, runs, logits, strict=True):
            del job.pending[: len(run.tokens)]
            if not job.pending:
                self._draw(job, row)
        self._running = [job for job in self._running if job.answer is None or not job.answer.finished]

    def _drop_cancelled(self) -> None:
        self._running = [job for job in self._running if not job.cancelled]
        self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def _reserved(self) -> int:
        return sum(job.cache.nbytes for job in self._running if job.cache is not None)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < MOST_RUNNING:
            job = self._waiting[0]
            cache = Cache(self.model.shape, len(job.prompt) + job.sampling.max_tokens)
            if self._running and self._reserved() + cache.nbytes > CACHE_BYTES:
                return
            self._waiting.popleft()
            job.cache, job.pending = cache, list(job.prompt)
            job.answer = Detokenizer(job.sampling, self.tokenizer, eos=self.eos)
            job.sampler = Sampler(job.sampling, seed=job.seed)
            self._running.append(job)

    def _draw(self, job: Job, logits: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        assert job.answer is not None  # set when admitted
        assert job.sampler is not None
        token = job.sampler.draw(logits, banned=job.answer.banned())
        job.pending.append(token.id)
        piece = job.answer.add(token)
        if piece is not None:
            job.deliver(piece)


def _next_run(job: Job) -> NewTokens:
    assert job.cache is not None  # set when admitted
    return NewTokens(job.pending[:PROMPT_PIECE], job.cache, job.variant)


def complete(scheduler: Scheduler, jobs: Iterable[Job]) -> None:
    """NewTokens jobs to their end on this thread: for benchmarks and evaluations."""
    for job in jobs:
        scheduler.add(job)
    while scheduler.busy:
        scheduler.step()
