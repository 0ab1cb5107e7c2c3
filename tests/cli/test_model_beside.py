"""`pointsman serve --model` serves a model of one's own beside the family: from a folder, and from a hub."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cli.model_beside import settings_beside
from router.errors import PointsmanError
from router.settings import load
from tests.anyprec.llamas import write_llama
from tests.cli.test_welcome import run, welcomed

ROOT = Path(__file__).parents[2]
STORE = ROOT / "backends/family/stores/small"
MODEL = "somebody/tiny-chat"
TOKEN = "hf-hush"


class Hub(BaseHTTPRequestHandler):
    """Of one model: what Hugging Face's hub answers, to whoever has the token."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Hub.asked.append(self.path)
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            self._answer(401, b"{}")
        elif self.path == f"/api/models/{MODEL}":
            names = ["README.md", "../../evil.safetensors", "a/b.safetensors", *(each.name for each in STORE.iterdir())]
            self._answer(200, json.dumps({"siblings": [{"rfilename": name} for name in names]}).encode())
        elif self.path.startswith(f"/{MODEL}/resolve/main/"):
            self._answer(200, (STORE / self.path.rpartition("/")[2]).read_bytes())
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Hub.asked.clear()
    yield Hub
    server.shutdown()
    server.server_close()


def beside(spec: str, folder: Path) -> Path:
    return settings_beside(spec, folder, say=lambda _: None)


def test_a_hubs_model_is_fetched_once_and_answers_beside_the_family(tmp_path: Path, hub: type[Hub]) -> None:
    with welcomed(tmp_path, None, "--model", MODEL) as printed:
        url = printed.partition("is up at ")[2].split()[0]
        message = {"role": "user", "content": "What is 2 + 3?"}
        body = json.dumps({"model": "somebody--tiny-chat@6bit", "messages": [message]})
        key = (tmp_path / "state home" / "pointsman" / "first-key").read_text()
        ask = f"curl -s {url}/v1/chat/completions -H 'Authorization: Bearer {key}'"
        answer = json.loads(run(tmp_path, f"{ask} -d '{body}'"))
        assert answer["model"] == "somebody--tiny-chat@6bit"
        listed = run(tmp_path, f"{ask.replace('chat/completions', 'models')}")
        assert "small@3bit" in listed
    first = len(hub.asked)
    beside(MODEL, tmp_path / "state home" / "pointsman")
    assert len(hub.asked) == first
    assert not [path for path in hub.asked if "evil" in path or "README" in path or "a/b" in path]


def test_a_folder_with_a_store_is_served_as_it_is(tmp_path: Path) -> None:
    settings = load(beside(str(STORE), tmp_path))
    assert settings.backends["own"].model_dump()["stores"] == {"own-small": STORE}
    assert settings.state_dir == tmp_path


def test_a_checkpoint_is_quantized_once(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "tiny", num_hidden_layers=1)
    said: list[str] = []
    for _ in range(2):
        settings = load(settings_beside(str(checkpoint), tmp_path / "state", say=said.append))
    assert settings.backends["own"].model_dump()["stores"] == {"tiny": tmp_path / "state/models/tiny.store"}
    assert len([line for line in said if "is quantized" in line]) == 1


@pytest.mark.parametrize(("spec", "said"), [
    ("no-such-folder", "there is no folder no-such-folder"),
    ("somebody/missing", "answered 404"),
    (".", "holds no model"),
])  # fmt: skip
def test_what_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: type[Hub], spec: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PointsmanError, match=said):
        beside(spec, tmp_path / "state")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PointsmanError, match=r"cannot be reached|no folder|no model"):
        beside(spec, tmp_path / "state")


def test_a_settings_file_and_a_model_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("")
    assert "backend of kind embedded" in run(tmp_path, "pointsman serve --config p.yaml --model x 2>&1 || true")
