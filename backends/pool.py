"""Several engines with one model behind one Backend: the least loaded serves, a session keeps its engine, and so does a
long beginning.

Requests that fail before the first byte go on to the next engine; afterwards nothing is ever sent twice.
"""

from __future__ import annotations

from asyncio import Task, create_task, gather, wait
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import Any

from backends.breaker import Breaker, BreakerRule, State
from backends.discovery import NEARLY_FULL, Found, Speed, Watch, delay_s
from backends.errors import BackendError, Overloaded, Refused
from backends.prefixes import prefix_of
from backends.tags import admitted
from backends.types import Backend, Reply, Report, Request, Stream, Whole

_SPILL = 8.0  # a session leaves its engine for one with this many fewer requests: the queue costs more than the cache
_BUSY_S = 1.0  # an engine is spared after a 429 or 503 that does not say for how long …
_LONGEST_BUSY_S = 30.0  # … and at most this long


@dataclass(slots=True)
class Replica:
    """One engine: its backend, how many requests it may have at once, and how it is doing."""

    name: str
    backend: Backend
    breaker: Breaker
    most: int | None = None  # requests at once; None: unlimited
    weight: float = 1.0  # its share of the requests beside its siblings
    context_tokens: int | None = None  # where it differs from its siblings'
    rank: int = 1  # those of a higher one are asked where none of a lower one can be
    tags: frozenset[str] | None = None  # whose requests it takes; None: no engine of this backend looks at tags
    credit: float = 0.0  # of turns it was owed by its weight
    in_flight: int = 0
    busy_until: float = 0.0  # it said that it is: others are asked first, and it is where there are none
    watch: Watch = field(init=False)
    _look: Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.watch = Watch(self.backend)

    @property
    def is_looked_at(self) -> bool:
        """Whether a look at it is under way."""
        return self._look is not None and not self._look.done()

    def look(self, clock: Callable[[], float]) -> Task[None]:
        """Begin to look at it, unless that is under way."""
        if self._look is None or self._look.done():
            self._look = create_task(self.watch.refresh(clock))
        return self._look

    async def aclose(self) -> None:
        """Look no longer, and release its connections."""
        if self._look is not None:
            self._look.cancel()
            await wait([self._look])
        await self.backend.aclose()

    @property
    def pressure(self) -> float:
        """Requests it has, ours or, where it reports more, all of them, and those waiting. A full cache counts as 10
        more, silence when it was last asked as a million: it is the last resort."""
        load = self.watch.load
        full = 10.0 if load.kv_usage > NEARLY_FULL else 0.0
        silent = 1e6 if self.watch.answers is False else 0.0
        return max(float(self.in_flight), load.running) + load.waiting + full + silent

    @property
    def has_room(self) -> bool:
        """Whether its cap allows one more request."""
        return self.most is None or self.in_flight < self.most

    def order(self, now: float) -> tuple[bool, float, float]:
        """By this the next engine is chosen, least first: not busy, then by load for its weight, then by turn."""
        return now < self.busy_until, self.pressure / self.weight, -self.credit

    def holds(self, tokens: int) -> bool:
        """Whether its context holds so many, as far as is known."""
        return self.context_tokens is None or tokens <= self.context_tokens


class Replicas:
    """One Backend over several. `attempts` bounds how many engines one request may try."""

    def __init__(
        self, replicas: Sequence[Replica], *, name: str, clock: Callable[[], float] = monotonic, attempts: int = 3
    ) -> None:
        if not replicas:
            raise ValueError(f"backend {name!r} has no replicas")
        self.name = name
        self.replicas = tuple(replicas)
        self._clock = clock
        self._attempts = attempts
        self._ranked = len({each.rank for each in replicas}) > 1
        self._tagged = any(each.tags is not None for each in replicas)

    @property
    def is_up(self) -> bool:
        """Whether any engine answered when last asked, if it was."""
        return any(replica.watch.answers is not False for replica in self.replicas)

    @property
    def is_banned(self) -> bool:
        """Whether every engine is banned after failures: another backend is better, and this one better than none."""
        return not any(replica.breaker.admits for replica in self.replicas)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(replica.in_flight for replica in self.replicas)

    @property
    def models(self) -> tuple[Found, ...]:
        """Every name that some engine answers to, in the order first seen; known after `refresh`."""
        return tuple({found.name: found for each in self.replicas for found in each.watch.models}.values())

    def states(self) -> dict[str, State]:
        """Breaker states by engine."""
        return {replica.name: replica.breaker.state for replica in self.replicas}

    async def send(self, request: Request) -> Reply:
        """Raises: BackendError, of the last engine tried; Overloaded where all are at their caps."""
        tried: set[str] = set()
        last: BackendError | None = None
        while len(tried) < self._attempts and (replica := self._pick(request, tried)) is not None:
            tried.add(replica.name)
            try:
                return await self._send(replica, request)
            except Refused:
                raise  # the next engine would say the same
            except BackendError as problem:
                last = problem
        raise last or self._nobody()

    async def ping(self) -> bool:
        """Whether any engine answers."""
        return any(await gather(*(replica.backend.ping() for replica in self.replicas)))

    @property
    def is_looked_at(self) -> bool:
        """Whether looks at all its engines are under way, so that nothing new is known of any."""
        return all(replica.is_looked_at for replica in self.replicas)

    def look(self) -> list[Task[None]]:
        """Begin to read every engine's models, load and speed, unless that is under way."""
        return [replica.look(self._clock) for replica in self.replicas]

    async def refresh(self) -> None:
        """Read every engine's models, load and speed. Raises: nothing."""
        await wait(self.look())

    def delay_s(self, *, prompt_tokens: float, completion_tokens: float, prior: Speed) -> float:
        """Seconds until the whole answer would be there, on the engine that is quickest now."""
        return min(
            delay_s(
                watch.load,
                watch.speed or prior,
                rtt_s=watch.rtt_s,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
            )
            for watch in (replica.watch for replica in self.replicas)
        )

    async def aclose(self) -> None:
        """Release every engine's connections."""
        for replica in self.replicas:
            await replica.aclose()

    async def _send(self, replica: Replica, request: Request) -> Reply:
        breaker = replica.breaker
        era = breaker.begin()
        replica.in_flight += 1
        try:
            reply = await replica.backend.send(request)
        except BaseException as problem:
            replica.in_flight -= 1
            self._judge(replica, era, problem)
            raise
        reply.report.served_by = replica.name
        replica.watch.heard = True
        if isinstance(reply, Whole):
            replica.in_flight -= 1
            breaker.succeed(era)
            return reply
        if breaker.state == "half-open":
            breaker.succeed(era)  # a first byte is enough: the rest may take minutes
        return _Counted(reply, replica, era)

    def _judge(self, replica: Replica, era: int, problem: BaseException) -> None:
        if isinstance(problem, Overloaded):
            spare_s = _BUSY_S if problem.retry_after_s is None else min(problem.retry_after_s, _LONGEST_BUSY_S)
            replica.busy_until = self._clock() + spare_s
            replica.breaker.abandon(era)
        elif isinstance(problem, BackendError) and not isinstance(problem, Refused):
            replica.breaker.fail(era)
        else:
            replica.breaker.abandon(era)

    def _pick(self, request: Request, tried: set[str]) -> Replica | None:
        now, session = self._clock(), request.session
        may = self._for(request.tags)
        open_to = [each for each in may if each.breaker.admits] or may  # banned beats nobody
        free = [replica for replica in open_to if replica.has_room and replica.name not in tried]
        free = [replica for replica in free if replica.holds(request.tokens)] or free
        if self._ranked and free:
            ready = [replica for replica in free if now >= replica.busy_until] or free
            first = min(replica.rank for replica in ready)
            free = [replica for replica in ready if replica.rank == first]
        if len(free) < 2:
            return free[0] if free else None
        for replica in free:  # smooth weighted turns, as nginx takes them
            replica.credit += replica.weight
        least = min(free, key=lambda replica: replica.order(now))
        least.credit -= sum([replica.weight for replica in free])
        home = _home(session.encode(), free) if session is not None else _home_of_prefix(request, free)
        if home is None:
            return least
        busy = now < home.busy_until
        return home if not busy and home.pressure <= least.pressure + _SPILL else least

    def _for(self, tags: frozenset[str]) -> Sequence[Replica]:
        """Whom a request with these tags may go to."""
        if not self._tagged:
            return self.replicas
        return admitted([(each, each.tags or frozenset()) for each in self.replicas], tags)

    def _nobody(self) -> BackendError:
        return Overloaded("every engine is at its cap", backend=self.name)


def replica_of(
    backend: Backend,
    *,
    name: str,
    clock: Callable[[], float] = monotonic,
    rule: BreakerRule | None = None,
    **more: Any,
) -> Replica:
    """A replica with a fresh breaker; `more` are further fields of Replica."""
    return Replica(name=name, backend=backend, breaker=Breaker(clock, rule), **more)


def _home(key: bytes, free: Sequence[Replica]) -> Replica:
    return max(free, key=lambda replica: _affinity(key, replica.name))


def _home_of_prefix(request: Request, free: Sequence[Replica]) -> Replica | None:
    """Where a conversation without a name stays, by how it begins. Those that share a long beginning (a system text,
    tools) are on two engines: on one they would crowd, and on all each would have to read it."""
    prefix = prefix_of(request.fields)
    if prefix is None:
        return None
    if prefix.shared and len(free) > 2:
        free = sorted(free, key=lambda replica: _affinity(prefix.shared, replica.name))[-2:]
    return _home(prefix.begun, free)


def _affinity(key: bytes, replica: str) -> bytes:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): when an engine goes, only its own sessions move."""
    return blake2b(key + b"\0" + replica.encode(), digest_size=8).digest()


class _Counted:
    """A stream that counts as in flight until it is closed, and then tells the breaker how it went."""

    def __init__(self, stream: Stream, replica: Replica, era: int) -> None:
        self._stream = stream
        self._era = era
        self._replica: Replica | None = replica

    @property
    def report(self) -> Report:
        return self._stream.report

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.in_flight -= 1
            if self.report.failure is None:
                replica.watch.heard = True
                replica.breaker.succeed(self._era)
            else:
                replica.breaker.fail(self._era)
        await self._stream.aclose()
