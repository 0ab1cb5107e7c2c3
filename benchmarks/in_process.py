"""What a request costs in process: the server's own protocol object over stubbed sockets, CPU at best of many batches.

The app opens as uvicorn opens it, with its lifespan and its settings; only bytes of sockets are missing. What the
gateway answers with anything but 200 ends the run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop
import yaml

from benchmarks.rig import ANSWER, prompts
from benchmarks.seeding import seed_snapshot
from benchmarks.settings import KEY, full_settings, pass_settings
from router.http.server import configuration
from router.settings import load

ENGINE = "http://127.0.0.1:9"  # nobody is asked: the loop has no sockets
CONNECTIONS = 16
_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
)
_UNRECORDED = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
_BODY = json.dumps(ANSWER).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


def measure(folder: Path, *, batches: int = 30, vectors: int = 10_000) -> dict[str, float]:
    """CPU microseconds a request, each the least of its batches."""
    passing = pass_settings(ENGINE, folder / "pass", 0)
    full = full_settings(ENGINE, folder / "full", 0)
    seed_snapshot(full, vectors=vectors)
    repeated = [messages(400)] * batches
    new = messages(100 * batches, seed=11)
    fresh = [new[start : start + 100] for start in range(0, len(new), 100)]
    with stubbed(folder / "pass", passing) as run:
        passed = least(run, repeated)
    with stubbed(folder / "full", full) as run:
        return {"pass_through_us": passed, "repeated_us": least(run, repeated), "never_seen_us": least(run, fresh)}


def sampled_out(folder: Path, *, batches: int = 60) -> dict[str, float]:
    """The same of a gateway without traces and of one that records none of its requests; needs `otel`.

    Both are up at once and their batches alternate, so that all meet the same moods of the machine.
    """
    traced = pass_settings(ENGINE, folder / "traced", 0)
    traced["telemetry"] = {"access_log": False, "traces": {"endpoint": ENGINE, "share": 0.0}}
    with (
        stubbed(folder / "plain", pass_settings(ENGINE, folder / "plain", 0)) as plain,
        stubbed(folder / "traced", traced) as run,
    ):
        ours, theirs = messages(400), messages(400, more=_UNRECORDED)
        ways = [(plain, ours), (run, ours), (plain, theirs), (run, theirs)]
        rounds = [[each(batch) for each, batch in ways] for _ in range(batches)][1:]
    names = ("without_traces_us", "sampled_out_us", "clients_trace_without_traces_us", "clients_trace_sampled_out_us")
    return {name: round(min(taken), 1) for name, taken in zip(names, zip(*rounds, strict=True), strict=True)}


def sampled_out_table(figures: Mapping[str, float]) -> list[str]:
    """Rows for a page: what sampled_out gave."""
    plain, out, clients_plain, clients_out = figures.values()
    cells = ((plain, out, "begins none"), (clients_plain, clients_out, "says that it is not recorded"))
    rows = [
        f"| {said} | {without:.1f} | {traced:.1f} | {traced - without:+.1f} | {traced / without:.3f} |"
        for without, traced, said in cells
    ]
    return [
        "| the client's trace | without traces, µs | with traces, µs | µs more | ratio |",
        "|---|---|---|---|---|",
        *rows,
    ]


def messages(count: int, *, seed: int = 7, model: str = "auto", more: str = "") -> list[bytes]:
    """That many different requests, as they come over the wire; `more` lines of each head."""
    bodies = [json.dumps({**body, "model": model}).encode() for body in prompts(count, seed=seed)]
    return bodies_of(bodies, more=more)


def bodies_of(bodies: Sequence[bytes], *, more: str = "") -> list[bytes]:
    """Requests with these bodies, as they come over the wire."""
    return [_HEAD.format(key=KEY, length=len(body), more=more).encode() + body for body in bodies]


def least(run: Callable[[Sequence[bytes]], float], batches: Sequence[Sequence[bytes]]) -> float:
    """The least of these batches in microseconds; the first is only for warming up."""
    return round(min([run(batch) for batch in batches][1:]), 1)


@contextmanager
def stubbed(folder: Path, settings: Mapping[str, Any]) -> Iterator[Callable[[Sequence[bytes]], float]]:
    """The gateway without sockets: what this yields sends a batch and says its CPU microseconds a request."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pointsman.yaml"
    path.write_text(yaml.safe_dump(dict(settings)))
    with asyncio.Runner(loop_factory=Loop) as runner:
        opened = opened_at(path)
        clients = runner.run(opened.__aenter__())
        try:
            yield lambda batch: _run(runner, clients, batch)
        finally:
            runner.run(opened.__aexit__(None, None, None))


def _run(runner: asyncio.Runner, clients: Sequence[Caller], batch: Sequence[bytes]) -> float:
    try:
        return runner.run(cpu_us(clients, batch))
    except RuntimeError as error:
        raise SystemExit(str(error)) from None


@asynccontextmanager
async def opened_at(path: Path) -> AsyncIterator[list[Caller]]:
    """Clients of a gateway that uvicorn has started."""
    loop = cast(Loop, asyncio.get_running_loop())
    config = configuration(load(path), path, port=0)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.socket() as unused:
        await server.startup(sockets=[unused])
        if server.should_exit:
            raise SystemExit("the gateway does not start; its log says why")
        await server.on_tick(0)  # the headers of every answer
        yield [Caller(loop.factories[-1]) for _ in range(CONNECTIONS)]
        await server.shutdown(sockets=[unused])


async def cpu_us(clients: Sequence[Caller], batch: Sequence[bytes]) -> float:
    """All threads of the process are counted."""
    rest = iter(batch)
    began = time.process_time()
    await asyncio.gather(*(client.ask(rest) for client in clients))
    return (time.process_time() - began) / len(batch) * 1e6


class Loop(uvloop.Loop):
    """A loop that neither listens nor connects: who listens is remembered, and who connects meets an StubEngine."""

    def __init__(self) -> None:
        super().__init__()
        self.factories: list[Callable[[], asyncio.Protocol]] = []

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        self.factories.append(protocol_factory)
        return Listener()

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        protocol = protocol_factory()
        engine = StubEngine(protocol)
        protocol.connection_made(engine)
        return engine, protocol


class Listener:
    """What create_server gives."""

    sockets: tuple[socket.socket, ...] = ()

    def close(self) -> None:
        """Nothing listens."""

    async def wait_closed(self) -> None:
        """It is closed."""


class StubTransport(asyncio.Transport):
    """One side of a connection: what the protocol writes comes to `wrote`."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 8080)})
        self.protocol = protocol
        self._closing = False

    def wrote(self, data: bytes) -> None:
        """Bytes for the other side."""
        raise NotImplementedError

    def write(self, data: Any) -> None:
        self.wrote(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    def resume_reading(self) -> None:
        """Nothing comes unasked."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""


class StubEngine(StubTransport):
    """Answers each message at the next turn of the loop."""

    def wrote(self, data: bytes) -> None:
        if data.startswith((b"POST", b"GET")):  # a body may follow its head
            asyncio.get_running_loop().call_soon(self.protocol.data_received, _ANSWER)


class Caller(StubTransport):
    """A client that sends its next request when it has the whole answer."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(factory())
        self._got = b""
        self._answered: asyncio.Future[None] | None = None
        self.protocol.connection_made(self)

    async def ask(self, requests: Iterator[bytes]) -> None:
        """Send these, one after another. Raises: RuntimeError for an answer that is not 200."""
        for request in requests:
            self._answered = asyncio.get_running_loop().create_future()
            self.protocol.data_received(request)
            await self._answered

    def wrote(self, data: bytes) -> None:
        self._got += data
        head, gap, body = self._got.partition(b"\r\n\r\n")
        if not gap or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        answered, self._answered, got, self._got = self._answered, None, self._got, b""
        assert answered is not None, "an answer that nobody asked for"
        if got.startswith(b"HTTP/1.1 200"):
            answered.set_result(None)
        else:
            answered.set_exception(RuntimeError(f"the gateway answered {got.decode()}"))
