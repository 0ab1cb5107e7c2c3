"""A model of one's own beside the packaged ones: from a folder, or from a hub that speaks Hugging Face's API.

What is no store yet is quantized once and kept in the state folder. Fails with one line where nothing can be had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from router.errors import PointsmanError

HUB = "https://huggingface.co"
PATIENCE_S = 60.0
FAMILY = ("small", "medium", "large")  # names that are taken
_PLAIN = re.compile(r"[\w.-]+")  # a file's name in a model's folder
_ID = re.compile(r"[\w.-]+/[\w.-]+")
Say = Callable[[str], None]


def settings_beside(spec: str, state_dir: Path, *, say: Say) -> Path:
    """A settings file that serves the family and this model. Raises: PointsmanError."""
    models = state_dir / "models"
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        folder = fetched(spec, models, say=say)
    name = re.sub(r"[^\w.-]", "-", folder.resolve().name)
    name = f"own-{name}" if name in FAMILY else name
    store = folder if is_store(folder) else _quantized(folder, models / f"{name}.store", say=say)
    path = models / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(json.dumps(_settings(name, store, state_dir), indent=2), encoding="utf-8")  # JSON is YAML
    say(f"{name} is served beside the family: {path}")
    return path


def _settings(name: str, store: Path, state_dir: Path) -> dict[str, Any]:
    return {
        "state_dir": str(state_dir.absolute()),
        "backends": {
            "family": {"kind": "embedded"},
            "own": {"kind": "embedded", "stores": {name: str(store.absolute())}},
        },
        "default_price": {"prompt": 0.05, "completion": 0.2},  # until machine time is measured
        "admission": {"required": False},  # whoever names a model by hand wants its widths to answer
    }


def is_store(folder: Path) -> bool:
    """Whether `pointsman quantize` wrote it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PointsmanError(f"{folder} holds no model: config.json: {error}") from None
    return bool(config.get("quantization_config", {}).get("quant_method") == "anyprec")


def _quantized(checkpoint: Path, out: Path, *, say: Say) -> Path:
    """The store of a checkpoint, made once."""
    from backends.anyprec.errors import AnyprecError  # noqa: PLC0415  (each verb imports what it needs)

    if out.is_dir() and is_store(out):
        return out
    say(f"{checkpoint} is quantized into {out}, once")
    try:
        from backends.anyprec.quantize import run  # noqa: PLC0415

        run(checkpoint, out=out, bits="3-8", rows_per_table=1, sensitivity=None, calibration=None)
    except AnyprecError as error:
        raise PointsmanError(str(error)) from None
    return out


def fetched(model: str, models: Path, *, say: Say) -> Path:
    """The folder of a hub's model, fetched once. Raises: PointsmanError."""
    if not _ID.fullmatch(model):
        raise PointsmanError(f"there is no folder {model}, and a hub's models are named OWNER/NAME")
    folder = models / model.replace("/", "--")
    if folder.is_dir():
        return folder
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in _files(json.load(_open(f"{hub}/api/models/{model}"))):
        say(f"fetching {model}/{name}")
        with _open(f"{hub}/{model}/resolve/main/{name}") as answer, (fresh / name).open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
    fresh.replace(folder)
    return folder


def _files(listed: Any) -> Iterator[str]:
    """What is needed of what a hub lists; nothing that would lie outside the folder."""
    from backends.anyprec.checkpoint import SIDE_FILES  # noqa: PLC0415

    names = [str(each.get("rfilename")) for each in listed.get("siblings", ()) if isinstance(each, dict)]
    wanted = [name for name in names if name in ("config.json", *SIDE_FILES) or ".safetensors" in name]
    yield from (name for name in wanted if _PLAIN.fullmatch(name))


def _open(url: str) -> Any:
    token = os.environ.get("HF_TOKEN")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE_S)
    except urllib.error.HTTPError as error:
        raise PointsmanError(f"{url} answered {error.code} {error.reason}") from None
    except OSError as error:
        raise PointsmanError(f"{url} cannot be reached: {error}; name a folder instead, or set HF_ENDPOINT") from None
