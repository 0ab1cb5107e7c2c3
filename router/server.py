"""The server process: uvicorn over the application, one process or several, and what is printed when it is up.

A port that is taken or settings that cannot run stop the start with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from router.app import App
from router.errors import SettingsError
from router.settings import Settings, load
from router.wiring import open_runtime, prepare


class _Announced(uvicorn.Server):
    """Says that it is up once it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def make_app(path: Path | None) -> App:
    """The application a worker process runs; each reads the settings file itself."""
    return App(partial(open_runtime, load(path), path))


def serve(
    path: Path | None, *, host: str | None, port: int | None, workers: int | None, say: Callable[[str], None]
) -> int:
    """Serve until told to stop; returns the exit code. Raises: SettingsError."""
    settings = load(path)
    server = settings.server
    config = uvicorn.Config(
        partial(make_app, path),
        factory=True,
        host=host or server.host,
        port=server.port if port is None else port,
        workers=workers or server.workers,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(server.drain_s),
        limit_concurrency=None,
        backlog=2048,
    )
    listening = _bind(config)
    key = asyncio.run(prepare(settings))
    for note in settings.notes:
        say(f"note: {note}")
    url = "http://{}:{}".format(*listening.getsockname()[:2])
    announce = partial(say, welcome(url, key, settings))
    if config.workers == 1:
        _Announced(config, announce).run(sockets=[listening])
    else:
        listening.listen(config.backlog)  # what connects before the workers are up waits in the queue
        threading.Thread(target=_announce_when_up, args=(url, announce), daemon=True).start()
        Multiprocess(config, sockets=[listening]).run()
    return 0


def _announce_when_up(url: str, announce: Callable[[], None]) -> None:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=120):
        announce()


def _bind(config: uvicorn.Config) -> socket.socket:
    """A listening socket. Raises: SettingsError naming the address where it is taken."""
    listening = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        message = f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another with --port"
        raise SettingsError(message, param="server.port") from None
    listening.set_inheritable(True)
    return listening


def welcome(url: str, key: str | None, settings: Settings) -> str:
    """What a newcomer needs: the URL, the models, a request to paste."""
    names = ", ".join(model.name for model in settings.candidates())
    aliases = ", ".join(f"auto:{name}" for name in settings.aliases)
    authorization = f' \\\n    -H "Authorization: Bearer {key}"' if key else ""
    return f"""
Pointsman is up at {url}
  models   auto, {aliases}, {names}
  key      {key or "none needed"}
  docs     {url}/docs

  curl {url}/v1/chat/completions{authorization} \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "What is 17 + 25?"}}]}}'
"""
