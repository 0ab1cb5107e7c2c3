"""The server process: uvicorn over the application, one process or several, and what is printed when it is up.

A port that is taken or settings that cannot run stop the start with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from uvicorn.supervisors import Multiprocess

from router.catalogue.probing import probe_engines
from router.errors import SettingsError
from router.http.app import App
from router.http.banner import Welcome, usable
from router.http.connections import SPARE_S, Connection
from router.settings import Settings, load
from router.telemetry.logs import configure
from router.wiring import open_runtime, prepare

START_LIMIT_S = 120.0
MOST_FILES = 1 << 20  # where there is no limit to raise to
WORKER_SILENT_S = 60  # then a worker is replaced; uvicorn's five seconds are too few for a start on a busy machine
LONGEST_BASE = 60  # characters: with a name in it, a socket's path has room for 107


def make_app(path: Path | None, together: Path | None = None) -> App:
    """The application a worker process runs; each reads the settings file itself, and finds the others in a folder."""
    settings = load(path)
    configure(settings.telemetry.level, settings.telemetry.format)
    return App(partial(open_runtime, settings, path, workers=together))


def configuration(
    settings: Settings,
    path: Path | None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    together: Path | None = None,
) -> uvicorn.Config:
    """How uvicorn serves the application; what is given goes before the settings. See make_app for `together`."""
    server = settings.server
    return uvicorn.Config(
        partial(make_app, path, together),
        factory=True,
        host=host or server.host,
        port=server.port if port is None else port,
        workers=workers or server.workers,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_level="warning",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=cast(int, server.drain_s),
        timeout_keep_alive=cast(int, server.idle_s + SPARE_S),  # these two may be floats: a timer gets them as they are
        timeout_worker_healthcheck=WORKER_SILENT_S,
        backlog=2048,
    )


def serve(
    path: Path | None, *, host: str | None, port: int | None, workers: int | None, say: Callable[[str], None]
) -> int:
    """Serve until told to stop; returns the exit code. Raises: SettingsError."""
    settings = load(path)
    configure(settings.telemetry.level, settings.telemetry.format)
    with meeting_place(settings, workers) as together:
        config = configuration(settings, path, host=host, port=port, workers=workers, together=together)
        return _serve(settings, path, config, say)


@contextlib.contextmanager
def meeting_place(settings: Settings, workers: int | None) -> Iterator[Path | None]:
    """A folder of the workers of this gateway, for as long as it runs; None where there is one."""
    if (workers or settings.server.workers) == 1:
        yield None
        return
    base = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="pointsman-", dir=base if len(base) < LONGEST_BASE else "/tmp") as made:
        yield Path(made)


def _serve(settings: Settings, path: Path | None, config: uvicorn.Config, say: Callable[[str], None]) -> int:
    listening = _bind(config)
    key = asyncio.run(prepare(settings))
    for each in settings.unroutable:
        say(f"not routable: {each}")
    for note in (*settings.notes, *open_files(settings.server.max_connections)):
        say(f"note: {note}")
    url = _address(listening)
    listening.listen(config.backlog)  # what connects before the workers are up waits in the queue
    threading.Thread(target=_announce, args=(url, path, settings, key, say), daemon=True).start()
    if config.workers == 1:
        uvicorn.Server(config).run(sockets=[listening])
    else:
        Multiprocess(config, sockets=[listening]).run()
    return 0


def open_files(connections: int) -> list[str]:
    """Let this process and its workers open as many files as they may; what to know where those are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, MOST_FILES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most >= 2 * connections:  # one to the client, and one to an engine
        return []
    return [f"{most} files may be open at once, fewer than server.max_connections ({connections}) may need twice over"]


def _announce(url: str, config: Path | None, settings: Settings, key: str | None, say: Callable[[str], None]) -> None:
    """Say that the gateway is up once it answers; nothing is said of one that does not start."""
    secret = key or usable(settings)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{url}/health", timeout=START_LIMIT_S).close()
        request = urllib.request.Request(f"{url}/v1/models", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=START_LIMIT_S) as answer:
                names = [model["id"] for model in json.load(answer)["data"]]
        except urllib.error.HTTPError:  # keys are required and none is known here
            names = ["auto", *(model.name for model in settings.candidates())]
        say(Welcome(url, settings, config, key, names, probe_engines(settings)).text())


def _address(listening: socket.socket) -> str:
    """Where this machine reaches it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(config: uvicorn.Config) -> socket.socket:
    """A listening socket. Raises: SettingsError naming the address where it is taken."""
    listening = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except (OSError, OverflowError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"cannot listen on {config.host}:{config.port}: {why}; choose another with --port"
        raise SettingsError(message, param="server.port") from None
    listening.set_inheritable(True)
    return listening
