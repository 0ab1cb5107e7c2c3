"""`pointsman check` asks the engines too, and never waits for one that says nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from router.catalogue import probing
from router.settings import Settings, build
from router.settings.source import parse


def settings_of(*addresses: str) -> Settings:
    entries = [
        f"- {{model_name: m{n}, litellm_params: {{model: hosted_vllm/o, api_base: '{url}'}}}}"
        for n, url in enumerate(addresses)
    ]
    return build(parse("model_list:\n" + "\n".join(entries)), {})


@contextmanager
def mute() -> Iterator[str]:
    """A server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_engines_that_say_nothing_are_named_together_and_not_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "PATIENCE_S", 0.5)
    with mute() as url:
        lines = list(probing.unreachable(settings_of(*[url] * 20)))
    assert len(lines) == 20
    assert all("nothing came within 0.5 s" in line for line in lines)
    assert "mend model_list[7].litellm_params.api_base" in lines[7]


def test_a_name_that_takes_forever_to_resolve_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PATIENCE_S", 0.2)
    woken: list[float] = []

    def stuck(*_: object, **__: object) -> None:
        time.sleep(2)
        woken.append(time.monotonic())
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    assert len(list(probing.unreachable(settings_of("http://slow.example")))) == 1
    assert not woken
