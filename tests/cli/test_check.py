"""`pointsman check` asks the engines too, and never waits for one that says nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


FILE = """
model_list:
- {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o, api_key: k}}
- {model_name: "anthropic/*", litellm_params: {model: "anthropic/*", api_key: k}}
- {model_name: azure, litellm_params: {model: azure/d, api_key: k, api_base: "http://127.0.0.1:9"}, model_info:
    {base_model: azure/gpt-4o}}
- {model_name: unpriced, litellm_params: {model: bedrock/no.such.model}}
- {model_name: local, litellm_params: {model: ollama_chat/qwen3, api_base: "http://127.0.0.1:9"}}
"""


def test_litellm_is_not_imported_where_its_cost_map_alone_will_do(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FILE)
    program = """
import sys
from cli import main
code = main(["check", sys.argv[1]])
print("imported", sorted({"litellm", "openai", "tiktoken", "faiss", "numba", "uvicorn"} & set(sys.modules)), code)
"""
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "imported [] 0", done.stdout + done.stderr
    assert "gpt-4o: openai/gpt-4o on gpt-4o, 2.5 / 10 USD per million tokens" in done.stdout
