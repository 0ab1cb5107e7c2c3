"""Two engines of different abilities behind three protocols: no request is refused while one of them can serve it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import serving
from tests.http.mixed_engines import engines, requests

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_of_mixed_requests_in_three_protocols_none_is_refused_while_one_engine_can(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    first, second, lacks = engines(chance)
    model = {"context_tokens": 50_000, "capabilities": ["chat", "tools", "vision", "logprobs"]}
    settings = {
        "state_dir": str(tmp_path / "state"),
        "policy": {"name": "cheapest"},
        "auth": {"required": False},
        "backends": {
            name: {"kind": "vllm", "url": f"http://127.0.0.1:{server.server_port}"}
            for name, server in (("first", first), ("second", second))
        },
        "models": [
            {"name": name, "backend": name, "price": {"prompt": price, "completion": price}, **model}
            for name, price in (("first", 1), ("second", 2))
        ],
    }
    wrong = []
    async with serving(tmp_path, settings) as running, httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        for path, body, asked in requests(chance, lacks, 170):
            answer = await client.post(path, json=body, headers={"anthropic-version": "2023-06-01"})
            if answer.status_code != 200 or (body["stream"] and _failed(answer.text)):
                wrong.append((path, body["stream"], asked, answer.status_code, answer.text[-300:]))
    for server in (first, second):
        server.shutdown()
        server.server_close()
    assert not wrong, (lacks, len(wrong), wrong[:8])


def _failed(text: str) -> bool:
    """Whether a stream ends in an error, or in nothing that ends its protocol."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    last = events[-1] if events else ""
    if last != "[DONE]":
        return json.loads(last or "{}").get("type") not in ("message_stop", "response.completed")
    return any('"error": {' in each or '"error":{' in each for each in events)
