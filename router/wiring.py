"""The only file that knows every class: it opens stores, backends, views and loops, and closes them in reverse.

What cannot be opened stops the start. Loops that fail are logged and go on at their next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backends.pool import Replicas
from backends.types import Embedder
from policies.types import Arm
from router.catalogue.ciphers import cipher_of
from router.catalogue.factories import SettingsWorkshop, build_embedder, build_policies, features_of
from router.catalogue.listing import Fleet, fleet_of
from router.catalogue.rules import machine_rates_of, must_be_alone, options_of
from router.errors import PointsmanError, SettingsError, StoreUnavailable
from router.gateway.crowd import Crowd, watch_loop
from router.gateway.deciding import Decider
from router.gateway.machine_pricing import MachinePricing
from router.gateway.serving import Gateway
from router.gateway.stored_answers import AnswerCache
from router.gateway.types import Catalogue, Surroundings
from router.learning.follower import Learning
from router.learning.history_loader import HistoryLoader
from router.learning.index import FaissIndex
from router.learning.spaces import Spaces
from router.learning.views import Views
from router.programs.explaining import program_s
from router.settings import Settings, diff, load_again
from router.settings.credentials import Credentials
from router.settings.litellm_file import files_of
from router.settings.paths import first_key_path, make_state_dir, snapshot_path, store_url
from router.settings.source import state_of
from router.stores.keys import CachedKeys, Key
from router.stores.open import Stores, open_stores
from router.stores.sqlite.timekeeping import boot_ms
from router.stores.unmetered import Unmetered
from router.telemetry.exposition import text_of
from router.telemetry.logs import RequestLines
from router.telemetry.metrics import PrometheusMetrics
from router.telemetry.state import state_gauges
from router.telemetry.tracing import conductor
from router.telemetry.workers import Workers
from router.types import now_ms

LOG = logging.getLogger("pointsman")
REFRESH_EVERY_S = 2.0
REFRESH_WITHIN_S = 1.0  # what engines have told by then counts; of the others the next turn hears
STOP_AGAIN_S = 1.0
KEEP_EVERY_S = 0.2
CATCH_UP_S = 3.0  # a start waits for the log no longer
RETIRE_AFTER_S = 5.0  # longer than a reservation takes
MOST_SAID = 2_000  # characters of what is wrong with a settings file


@dataclass(slots=True)
class Runtime:
    """A gateway that is open, and what its routes need beside it."""

    settings: Settings
    fleet: Fleet
    gateway: Gateway
    stores: Stores
    keys: Credentials
    learning: Learning
    metrics: PrometheusMetrics
    clock: Callable[[], float]
    version: str
    workers: Workers  # this gateway's processes
    crowd: Crowd  # requests that wait while the loop is behind
    tracer: Any = None  # of OpenTelemetry, where the settings ask for traces
    path: Path | None = None  # of the settings file
    unpriced: str = ""  # why what the engines list was last not taken in
    unready: str = ""  # why it was not ready when last asked
    retiring: set[asyncio.Future[None]] = field(default_factory=set)

    async def metrics_page(self) -> bytes:
        """What all workers counted, and how budgets and learning stand: Prometheus' exposition format."""
        state = await state_gauges(self.settings, self.fleet.catalogue(), self.stores, self.learning, now_ms())
        return text_of(await self.workers.total(), self.metrics.prices, state)

    async def missing(self) -> dict[str, str]:
        """What keeps the gateway from serving, by part, in a word; empty when it is ready. The log says why: whoever
        asks need not have a key, and may not learn where stores and engines are."""
        missing, why = {}, ""
        try:
            await self.stores.ledger.check()
        except PointsmanError as error:
            missing["store"], why = "unavailable", error.message
        down = self.gateway.decider.down  # as requests find them: a look that is under way may know more
        if down >= self.fleet.backends.keys():
            missing["backends"], why = "none answers", f"{why} none answers of {', '.join(sorted(down))}"
        if why != self.unready:
            self.unready = why
            LOG.warning("the gateway is %s", f"not ready: {why}" if why else "ready again")
        return missing


async def prepare(settings: Settings) -> str | None:
    """Open the stores once before serving, so that what cannot run stops here; returns a key to print, or None.

    Where keys are required and none exist yet, a first one is made and kept in a file only its owner may read.
    """
    async with _open(settings) as stores:
        if not settings.auth.required:
            return None
        path = first_key_path(settings)
        if path.exists() and await stores.keys.find(secret := path.read_text().strip(), now_ms()) is not None:
            return secret
        if settings.static_keys() or [key async for key in stores.keys.all(Key)]:
            return None
        _, secret = await stores.keys.create(settings.auth.tenant, name="first key")
        path.touch(mode=0o600)
        path.write_text(secret)
        return secret


def _open(settings: Settings) -> AbstractAsyncContextManager[Stores]:
    """Raises: SettingsError where the state folder cannot be made."""
    make_state_dir(settings)
    return open_stores(store_url(settings), clock=now_ms, boot=boot_ms)


@asynccontextmanager
async def open_runtime(
    settings: Settings, path: Path | None, *, workers: Path | None = None, spans: Any = None
) -> AsyncIterator[Runtime]:
    """Everything a serving process needs. `path` is watched for changes; in the folder `workers` those of one gateway
    find each other; `spans` is a SpanExporter in the place of a collector. Raises: PointsmanError.
    """
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(_open(settings))
        fleet = await fleet_of(settings, records=stores.records)
        catalogue = fleet.catalogue()
        embedder, spaces = await build_embedder(settings, stores.archive)
        metrics = PrometheusMetrics()
        metrics.refused, lines = stores.refused, RequestLines()
        metrics.served_requests = lines.waiting if settings.telemetry.access_log else None
        cached = CachedKeys(stores.keys)
        stores.keys.watchers.append(cached.forget)
        machine_pricing = MachinePricing(machine_rates_of(settings))
        policies = build_policies(settings, catalogue.arms())
        views = Views(_index(settings, embedder.dim), policies, machine_time=machine_pricing.machine_time)
        learning = _learning(settings, stores, views, arms=lambda: offered(gateway))
        learning.spaces, learning.loader = spaces, HistoryLoader(stores.archive, spaces)
        tracer, conduct = await conductor(settings, stack, spans, lambda: runtime.settings)
        gateway = _gateway(settings, stores, catalogue, embedder, learning, metrics, machine_pricing, conduct)
        gateway.decider.down, gateway.decider.spared = fleet.down(), fleet.spared()
        await _catch_up(learning)
        runtime = Runtime(
            settings=settings,
            fleet=fleet,
            gateway=gateway,
            stores=stores,
            keys=Credentials(settings, cached, forget=cached.forget),
            learning=learning,
            metrics=metrics,
            clock=time.time,
            path=path,
            version=version("pointsman"),
            workers=Workers(workers, metrics.own),
            crowd=Crowd(**settings.server.lag.model_dump()),
            tracer=tracer,
        )
        gateway.observer.judging.find = lambda secret: runtime.keys.find(secret, now_ms())
        stack.push_async_callback(_close, runtime)
        await stack.enter_async_context(runtime.workers.open())
        for loop in (lines.run, *_loops(runtime, spaces)):
            await stack.enter_async_context(_running(loop))
        yield runtime
        try:
            await _keep_counts(spaces)
            await learning.snapshot()
        except (OSError, PointsmanError) as error:  # the log has it all: the next start replays it
            LOG.warning("no snapshot was written at the end: %s", error)


def _loops(runtime: Runtime, spaces: Spaces | None) -> tuple[Callable[[], Awaitable[None]], ...]:
    """What runs beside the requests until the end."""
    settings, learning = runtime.settings, runtime.learning
    return (
        learning.run,
        lambda: _every(REFRESH_EVERY_S, lambda: _refresh(runtime)),
        lambda: _every(settings.index.snapshot_s, lambda: _snapshot(settings, learning)),
        lambda: _every(KEEP_EVERY_S, lambda: _keep_counts(spaces)),
        lambda: watch_loop(runtime.metrics.lagged, runtime.crowd.lagged),
        lambda: _reloads(runtime, runtime.path),
    )


async def _keep_counts(spaces: Spaces | None) -> None:
    if spaces is not None:
        await spaces.flush()


async def _snapshot(settings: Settings, learning: Learning) -> None:
    """One for all workers: whoever is first writes it."""
    await learning.snapshot(unless_newer_s=settings.index.snapshot_s / 2)


def offered(gateway: Gateway) -> tuple[Arm, ...]:
    """What may be chosen now, after every reload and whatever engines came up."""
    return gateway.decider.catalogue.arms()


def _index(settings: Settings, dim: int) -> FaissIndex:
    return FaissIndex(
        dim,
        graph_from=settings.index.graph_from,
        ef_search=settings.index.ef_search,
        build_threads=settings.index.build_threads,
    )


def _learning(settings: Settings, stores: Stores, views: Views, *, arms: Callable[[], Sequence[Arm]]) -> Learning:
    """`arms` are asked for at each refit: models come and go while the gateway runs."""
    workshop = SettingsWorkshop(settings, arms)
    return Learning(stores.log, views, workshop, arms=arms, folder=snapshot_path(settings))


async def _catch_up(learning: Learning) -> None:
    """What the log says, as far as a start may wait for it; the rest is learned while requests are answered."""
    await learning.compare()
    learning.load()
    await learning.adopt()
    if not await learning.catch_up(within_s=CATCH_UP_S):
        LOG.warning(
            "the outcome log is long: %s is reached, and the rest is learned beside the requests", learning.position
        )


def _gateway(
    settings: Settings,
    stores: Stores,
    catalogue: Catalogue,
    embedder: Embedder,
    learning: Learning,
    metrics: PrometheusMetrics,
    machine_pricing: MachinePricing,
    conduct: Callable[..., Gateway],
) -> Gateway:
    decider = Decider(
        catalogue=catalogue,
        learning=learning,
        options=options_of(settings),
        machine_pricing=machine_pricing,
        answers=AnswerCache(stores.answers, learning.views, time.time, cipher_of(settings.responses)),
        surroundings=Surroundings(
            stores.ledger,
            embedder,
            np.random.default_rng(settings.policy.seed),
            time.time,
            features_of(settings),
            None if learning.spaces is None else learning.spaces.embedder.note,
        ),
    )
    ledger = Unmetered(stores.ledger, stores.ledger, passes=lambda: not decider.options.remember)
    records = {"log": stores.log, "audit": stores.audit}
    gateway = conduct(decider=decider, ledger=ledger, metrics=metrics, clock=time.time, **records)
    decider.delays.program_s = lambda model, requirements: program_s(model, requirements, gateway)
    return gateway


async def _refresh(runtime: Runtime) -> None:
    """Look at every backend: whether it is up, and how loaded."""
    fleet, decider = runtime.fleet, runtime.gateway.decider
    await fleet.refresh(within_s=REFRESH_WITHIN_S)
    decider.down = fleet.down() | (decider.down & fleet.unknown())  # a request may have found out what no look has yet
    decider.spared = fleet.spared()
    try:
        decider.catalogue, runtime.unpriced = fleet.catalogue(), ""
    except SettingsError as error:  # an engine lists something new: the candidates stay as they were
        if error.message != runtime.unpriced:
            LOG.error("the candidates stay as they were: %s", error.message)
        runtime.unpriced = error.message
    for name, backend in fleet.backends.items():
        runtime.metrics.backend(name, up=name not in decider.down, breakers=backend.states())
    runtime.metrics.learned_prices(
        {m.name: found for m in decider.catalogue.models if (found := decider.machine_pricing.price(m))}
    )


async def _reloads(runtime: Runtime, path: Path | None) -> None:
    """Reload the settings when the file, or one that it includes, changes, or SIGHUP comes."""
    if path is None:
        return
    asked = asyncio.Event()
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # only a main thread may take signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    files = await asyncio.to_thread(files_of, path)
    seen = found = [state_of(each) for each in files]
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(runtime.settings.reload.every_s):
                await asked.wait()
        last, found = found, [state_of(each) for each in files]
        is_written = seen != found == last  # and nobody is writing to it still
        if asked.is_set() or (runtime.settings.reload.watch and is_written):
            asked.clear()
            files = await asyncio.to_thread(files_of, path)
            seen = found = [state_of(each) for each in files]
            await reload(runtime, path)


async def reload(runtime: Runtime, path: Path) -> None:
    """Take in the settings file as it is now: models and prices change between two requests, streams go on.

    A file that cannot run changes nothing, whatever is wrong; what needs a restart is named in the log.
    """
    try:
        fresh = await asyncio.to_thread(load_again, path)
        await must_be_alone(fresh, runtime.stores.keys)
        changes = diff(runtime.settings, fresh)
        fleet = await fleet_of(fresh, runtime.fleet)
        catalogue, options, rates = fleet.catalogue(), options_of(fresh), machine_rates_of(fresh)
        runtime.keys.take(fresh)
    except Exception as error:  # foreign text: whatever it does to its reader, the next file is read again
        why = error.message if isinstance(error, PointsmanError) else f"{type(error).__name__}: {error}"
        LOG.error("%s is not taken in, the old settings stay: %s", path, why[:MOST_SAID])
        return
    old, decider = runtime.fleet, runtime.gateway.decider
    decider.catalogue, decider.options, runtime.settings, runtime.fleet = catalogue, options, fresh, fleet
    decider.down, decider.spared = fleet.down(), fleet.spared()
    decider.machine_pricing.take(rates)
    LOG.warning("settings reloaded: %s", changes)
    with contextlib.suppress(StoreUnavailable):  # the log has it
        await runtime.stores.audit.note("settings.reloaded", str(path), {**changes.detail(), "by": "file"})
    gone = [backend for name, backend in old.backends.items() if fleet.backends.get(name) is not backend]
    for backend in gone:
        runtime.retiring.add(task := asyncio.ensure_future(_retire(backend)))
        task.add_done_callback(runtime.retiring.discard)


async def _retire(backend: Replicas) -> None:
    """Close a backend once its last request has ended, and those that were decided before have come."""
    await asyncio.sleep(RETIRE_AFTER_S)
    while backend.in_flight:  # noqa: ASYNC110  (rare, and nobody waits for it)
        await asyncio.sleep(0.5)
    await backend.aclose()


async def _close(runtime: Runtime) -> None:
    await runtime.gateway.observer.judging.aclose()
    if runtime.gateway.decider.answers is not None:
        await runtime.gateway.decider.answers.write()
    for backend in runtime.fleet.backends.values():
        await backend.aclose()


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work again and again. A failure is logged, once while it stays the same, and the next turn tried."""
    said = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:
            known, said = said, repr(error)
            if said != known:
                LOG.error(
                    "a background task failed and is tried again every %s s: %s",
                    seconds,
                    error,
                    exc_info=None if isinstance(error, StoreUnavailable) else error,
                )
        else:
            said = ""


@asynccontextmanager
async def _running(loop: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """A task for as long as the context is open. Asked to stop again where it missed it: a library's wait may swallow a
    cancellation that comes at the moment it is over."""
    task = asyncio.ensure_future(loop())
    try:
        yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=STOP_AGAIN_S)
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
