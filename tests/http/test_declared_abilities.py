"""What engines say of themselves is believed from the first request on, as far as it goes, and shown in /v1/models."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import engine as able
from tests.http.conftest import serving
from tests.http.mixed_engines import CHAT, PNG, request_of

pytestmark = pytest.mark.anyio


class Telling(able.Handler):
    """Has pages about itself; `heard` counts what it was asked in chat."""

    pages: Mapping[str, Any]
    heard: list[dict[str, Any]]

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        if self.path in self.pages:
            self._json(200, self.pages[self.path])
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:  # noqa: N802
        request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.heard.append(request)
        self._json(200, able.whole(request, able.answer(request)))


def server(**pages: Any) -> tuple[ThreadingHTTPServer, list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    card = pages.pop("card", {})
    said = {f"/{name}": page for name, page in pages.items()} | {"/v1/models": {"data": [{"id": "m", **card}]}}
    made = ThreadingHTTPServer(("127.0.0.1", 0), type("Engine", (Telling,), {"pages": said, "heard": heard}))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made, heard


def settings_of(folder: Path, engines: dict[str, ThreadingHTTPServer], **more: dict[str, Any]) -> dict[str, Any]:
    return {
        "state_dir": str(folder / "state"),
        "policy": {"name": "cheapest"},
        "auth": {"required": False},
        "backends": {n: {"kind": "vllm", "url": f"http://127.0.0.1:{s.server_port}"} for n, s in engines.items()},
        "models": [
            {"name": n, "upstream": "m", "backend": n, "price": {"prompt": i, "completion": i}, **more.get(n, {})}
            for i, n in enumerate(engines, 1)
        ],
    }


async def test_an_engine_that_says_what_it_lacks_is_not_tried_with_it(tmp_path: Path) -> None:
    plain, plain_heard = server(get_server_info={"tool_call_parser": None}, props={"modalities": {"vision": False}})
    wide, wide_heard = server(
        card={"capabilities": {"vision": True, "function_calling": True}, "context_length": 9_000}
    )
    embeds, embeds_heard = server(get_model_info={"is_generation": False})
    engines = {"embeds": embeds, "plain": plain, "wide": wide}
    async with serving(tmp_path, settings_of(tmp_path, engines)) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            for asked, who in (([], "plain"), (["tools"], "wide"), (["images"], "wide")):
                answer = await client.post(CHAT, json=request_of(CHAT, asked, stream=False))
                assert (answer.status_code, answer.json().get("model")) == (200, who), answer.text
            cards = {each["id"]: each for each in (await client.get("/v1/models")).json()["data"]}
    assert (len(plain_heard), len(wide_heard), len(embeds_heard)) == (1, 2, 0)
    assert cards["embeds"]["capabilities"] == ["embeddings"]
    assert cards["plain"]["lacks"] == ["images", "tools"]
    assert cards["plain"]["reported_by"] == ["/props", "/get_server_info"]
    assert (cards["wide"]["max_model_len"], "vision" in cards["wide"]["capabilities"]) == (9_000, True)
    for each in engines.values():
        each.shutdown()
        each.server_close()


async def test_settings_count_before_what_an_engine_says_and_a_denial_is_not_the_last_word(tmp_path: Path) -> None:
    """The first lies that it has no tools: its owner knows better. The second is all that is left for seeds."""
    card = {"supported_parameters": ["max_tokens"]}
    first, first_heard = server(card=card)
    engines = {"first": first}
    known = {"first": {"lacks": ["seed"], "context_tokens": 700, "capabilities": ["chat", "tools"]}}
    async with serving(tmp_path, settings_of(tmp_path, engines, **known)) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            for asked in (["tools"], ["seed"], ["json_object"]):
                answer = await client.post(CHAT, json=request_of(CHAT, asked, stream=False))
                assert answer.status_code == 200, answer.text
            body = request_of(CHAT, [], stream=False)
            body["messages"][0]["content"] = [{"type": "image_url", "image_url": {"url": PNG}}]
            assert (await client.post(CHAT, json=body)).status_code == 400  # by the settings, no model sees
            (found,) = [e for e in (await client.get("/v1/models")).json()["data"] if e["id"] == "first"]
    assert len(first_heard) == 3
    assert (found["lacks"], found["max_model_len"]) == (["seed"], 700)
    first.shutdown()
    first.server_close()
