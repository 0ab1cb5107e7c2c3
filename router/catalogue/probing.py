"""Which engines of some settings do not answer, and why, before anything is sent to them. Never raises."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from router.settings import Settings
from router.settings.description import shown_address
from router.settings.engine_sections import LitellmSection, VllmSection

PATIENCE_S = 3.0
STORE_PATIENCE_S = 1.5


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """One engine, and what is wrong with it."""

    backend: str
    url: str
    why: str  # "" where it answers
    path: str  # of its address, in the user's own file

    def __str__(self) -> str:
        return f"{self.backend} at {self.url}: {self.why or 'answers'}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        what = "start it, or mend" if "answer" in self.why else "mend its api_key, beside"
        return f"{what} {self.path}"


def probe_engines(settings: Settings) -> list[EngineProbe]:
    """Every engine with an address, asked at once; an answer of any kind is an answer. Takes `PATIENCE_S` at most."""
    engines, silent = list(_engines(settings)), f"it does not answer: {_plain(TimeoutError())}"
    reasons = dict.fromkeys(range(len(engines)), silent)

    def ask(number: int) -> None:
        reasons[number] = _reason(*engines[number][2:])

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in reasons]  # a name may never resolve
    for each in threads:
        each.start()
    until = time.monotonic() + PATIENCE_S
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    return [EngineProbe(name, shown_address(url), reasons[n], path) for n, (name, path, url, *_) in enumerate(engines)]


def unreachable(settings: Settings) -> Iterator[str]:
    """A line for each engine that takes no request now, in the words of entries that are not routable."""
    for each in probe_engines(settings):
        if each.why:
            yield f"{each}; {each.remedy}; until then its models are passed over"


def silent_store(settings: Settings) -> str | None:
    """A line where the Redis that the settings name does not answer; None where it does, or none is named so."""
    url = settings.store.redis.get_secret_value() if settings.store.redis else ""
    if not url.startswith(("redis://", "rediss://")):
        return None
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or 6379
    found: list[Exception | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), STORE_PATIENCE_S).close()
        except OSError as error:
            found.append(error)
        else:
            found.append(None)

    thread = threading.Thread(target=connect, daemon=True)  # a name may never resolve
    thread.start()
    thread.join(STORE_PATIENCE_S)
    error = found[0] if found else TimeoutError()
    where = f"{settings.read.path('store.redis')}: Redis at {host}:{port} does not answer"
    why = _plain(error, STORE_PATIENCE_S)
    return None if error is None else f"{where}: {why}; the gateway does not start before it does"


def _engines(settings: Settings) -> Iterator[tuple[str, str, str, str | None, bool]]:
    """(backend, path of the address, address, key, whether it speaks OpenAI's API)."""
    for name, section in settings.backends.items():
        if isinstance(section, VllmSection | LitellmSection):
            first = 1 if section.url else 0
            for number, replica in enumerate(section.replicas):
                if replica.url:
                    place = "url" if number < first else f"urls[{number - first}].url"
                    key = replica.api_key.get_secret_value() if replica.api_key else None
                    path = settings.read.path(f"backends.{name}.{place}")
                    yield name, path, replica.url, key, isinstance(section, VllmSection)


def _reason(url: str, key: str | None, speaks: bool) -> str:
    """Why an engine gives no list of models; "" where it does. Others are only to be there."""
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/models" if speaks else url
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key and speaks else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        refused = {401: "it refuses the key (401)", 403: "it refuses the key (403)"}
        return refused.get(error.code, "") if speaks else ""
    except urllib.error.URLError as error:
        return f"it does not answer: {_plain(error.reason)}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {_plain(error)}"


def _plain(reason: object, patience_s: float | None = None) -> str:
    if isinstance(reason, TimeoutError):
        patience_s = PATIENCE_S if patience_s is None else patience_s
        return f"nothing came within {patience_s:g} s"
    if isinstance(reason, socket.gaierror):
        return "its name is not known here"
    return getattr(reason, "strerror", None) or str(reason)
