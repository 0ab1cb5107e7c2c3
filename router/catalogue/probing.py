"""Which engines of some settings do not answer, and why, before anything is sent to them. Never raises."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from router.settings import Settings
from router.settings.engine_sections import VllmSection

PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """One engine, and what is wrong with it."""

    backend: str
    url: str
    why: str  # "" where it answers

    def __str__(self) -> str:
        return f"{self.backend} at {self.url}: {self.why or 'answers'}"


def probe_engines(settings: Settings) -> list[EngineProbe]:
    """Every engine with an address, asked at once; an answer of any kind is an answer."""
    engines = list(_engines(settings))
    if not engines:
        return []
    with ThreadPoolExecutor(min(32, len(engines))) as pool:
        reasons = list(pool.map(lambda engine: _reason(engine[1], engine[2]), engines))
    return [EngineProbe(name, shown(url), why) for (name, url, _), why in zip(engines, reasons, strict=True)]


def _engines(settings: Settings) -> Iterator[tuple[str, str, str | None]]:
    """(backend, address, key)."""
    for name, section in settings.backends.items():
        if isinstance(section, VllmSection):
            for replica in section.replicas:
                if replica.url:
                    yield name, replica.url, replica.api_key.get_secret_value() if replica.api_key else None


def _reason(url: str, key: str | None) -> str:
    """Why an engine gives no list of models; "" where it does."""
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/models"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return {401: "it refuses the key (401)", 403: "it refuses the key (403)"}.get(error.code, "")
    except urllib.error.URLError as error:
        return f"it does not answer: {_plain(error.reason)}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {_plain(error)}"


def _plain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"nothing came within {PATIENCE_S:g} s"
    if isinstance(reason, socket.gaierror):
        return "its name is not known here"
    return getattr(reason, "strerror", None) or str(reason)


def shown(url: str) -> str:
    """An address without a password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
