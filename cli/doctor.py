"""The verb that looks at everything a gateway rests on, and says what is wrong and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cli.config import add_config
from router.errors import PointsmanError
from router.types import now_ms

if TYPE_CHECKING:
    from router.settings import Settings

Verbs = Any  # argparse gives its subparsers no public type
LEAST_FREE_BYTES = 1 << 30
PATIENCE_S = 3.0
_MARKS = {"good": "ok   ", "odd": "note ", "bad": "WRONG"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["good", "odd", "bad"]
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n                 → {self.remedy}" if self.remedy else ""
        return f"{_MARKS[self.state]}  {self.what:<10}{self.said}{remedy}"


def add_verbs(verbs: Verbs) -> None:
    """Add doctor."""
    doctor = verbs.add_parser("doctor", help="look at settings, state, store, clock, engines; say what is wrong")
    add_config(doctor, "file", otherwise="the embedded family")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    worst = False
    for finding in findings(arguments.file):
        print(finding, flush=True)
        worst = worst or finding.state == "bad"
    print("something is wrong" if worst else "nothing is wrong")
    return int(worst)


def findings(path: Path | None) -> Iterator[Finding]:
    """What was looked at, in the order of a start; the first fault of the settings is the last finding."""
    from router.settings import load  # noqa: PLC0415  (each verb imports what it needs)
    from router.settings.extras import command_name  # noqa: PLC0415

    try:
        settings = load(path)
    except PointsmanError as error:
        yield Finding("settings", "bad", error.message, "mend the file; docs/settings.md has every key")
        return
    yield Finding("settings", "good", "the packaged models, no file" if path is None else str(path))
    for note in (*settings.notes, *settings.unroutable):
        yield Finding("settings", "odd", str(note))
    suffix = "" if path is None else f" --config {path}"
    yield _folder(settings)
    yield from asyncio.run(_stores(settings, f"{command_name()} clock confirm{suffix}"))
    yield from _engines(settings)
    yield _callers(settings, f"{command_name()} keys create TENANT{suffix}")
    yield _port(settings)
    yield from _extras()


def _folder(settings: Settings) -> Finding:
    folder = settings.state_dir
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedy = f"sudo chown -R $(id -u) {there}, or set state_dir"
        return Finding("state", "bad", f"{folder} cannot be written", remedy)
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        remedy = "make room, or set state_dir to a larger disk: without room nothing is reserved"
        return Finding("state", "bad", f"{folder} has {free / 2**20:.0f} MiB left", remedy)
    return Finding("state", "good", f"{folder}, {free / 2**30:.1f} GiB left")


async def _stores(settings: Settings, confirm: str) -> list[Finding]:
    from router.settings.paths import make_state_dir, store_url  # noqa: PLC0415
    from router.stores.open import open_stores  # noqa: PLC0415
    from router.stores.sqlite.timekeeping import boot_ms  # noqa: PLC0415

    kind = "SQLite" if settings.store.redis is None else "Redis"
    started = time.perf_counter()
    try:
        make_state_dir(settings)
        async with open_stores(store_url(settings), clock=now_ms, boot=boot_ms) as stores:
            await stores.ledger.balances([], now_ms())
            ms = (time.perf_counter() - started) * 1000
            found = [Finding("store", "good", f"{kind} opens and answers in {ms:.0f} ms")]
            jump_ms = 0 if stores.clock is None else stores.clock.jump_ms()
    except PointsmanError as error:
        remedy = "start Redis, or mend store.redis" if kind == "Redis" else "another program may hold or own the file"
        return [Finding("store", "bad", error.message, remedy)]
    if jump_ms:
        said = f"this machine's clock has jumped by {jump_ms / 1000:.0f} s, and no money is reserved"
        return [*found, Finding("clock", "bad", said, f"set the clock right, then: {confirm}")]
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return [*found, Finding("clock", "good", "Redis's own orders the money" if kind == "Redis" else now)]


def _engines(settings: Settings) -> Iterator[Finding]:
    from router.catalogue.probing import probe_engines  # noqa: PLC0415
    from router.settings.extras import install_line, missing  # noqa: PLC0415

    for probe in probe_engines(settings):
        if not probe.why:
            yield Finding("engine", "good", str(probe))
            continue
        yield Finding("engine", "bad", str(probe), probe.remedy)
    for name, section in settings.backends.items():
        if section.kind == "litellm" and "providers" in missing():
            yield Finding("engine", "bad", f"{name} needs the extra `providers`", install_line(["providers"]))
        elif section.kind in ("litellm", "embedded"):
            said = "a provider: its key is tried by requests alone" if section.kind == "litellm" else "in this process"
            yield Finding("engine", "good", f"{name}: {said}")


def _callers(settings: Settings, create: str) -> Finding:
    from router.settings.paths import first_key_path  # noqa: PLC0415

    if not settings.auth.required:
        state: Literal["good", "odd"] = "good" if settings.server.host in ("127.0.0.1", "::1", "localhost") else "odd"
        remedy = "" if state == "good" else "whoever reaches the port may spend: auth: {required: true}"
        return Finding("keys", state, f"none is needed: callers are tenant {settings.auth.tenant}", remedy)
    count, first = len(settings.static_keys()), first_key_path(settings)
    if count or first.exists():
        where = f"{count} in the settings file" if count else f"the first one is in {first}"
        return Finding("keys", "good", where)
    return Finding("keys", "odd", "none yet: the first start makes one and prints it", f"or: {create}")


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{reach}]:{port}" if ":" in reach else f"http://{reach}:{port}"
    try:
        socket.create_connection((reach, port), timeout=PATIENCE_S).close()
    except OSError:
        return Finding("port", "good", f"{host}:{port} is free; no gateway runs there")
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=PATIENCE_S) as answer:
            answer.read()
        return Finding("port", "good", f"a gateway answers at {url} and is ready")
    except urllib.error.HTTPError as error:
        said = error.read(300).decode("utf-8", "replace") if error.code == 503 else f"{error.code}"
        return Finding("port", "bad", f"what answers at {url} is not ready: {said}", "its log says why")
    except OSError:
        remedy = "stop it, or serve with --port or server.port"
        return Finding("port", "bad", f"{host}:{port} is taken by another program", remedy)


def _extras() -> Iterator[Finding]:
    from router.settings.extras import EXTRAS, install_line, missing  # noqa: PLC0415

    for name in missing():
        yield Finding("extras", "odd", f"{name} is not installed: {EXTRAS[name][1]}", install_line([name]))
