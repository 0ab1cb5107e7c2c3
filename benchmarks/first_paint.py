"""When the page at / is there: first paint in headless Chromium, and how soon the parts for operators are.

    python -m benchmarks.first_paint --write docs/page.md

The gateway runs as it is started by default, with the packaged models. Its log is empty, or has
that many decisions, each settled and every fourth judged. Each load is of a browser that has seen nothing of the page.
Needs Chromium and the extra `test`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import yaml

from backends.embedders.hashing import HashingEmbedder
from backends.embedders.unit import unit_rows
from benchmarks.child import Child
from benchmarks.redis_pair import redis_server
from benchmarks.rig import Tree, free_port, prompts, running
from policies.types import Arm, Estimates, Evidence, LoggedContext
from research.provenance import provenance, put
from router.catalogue.factories import family
from router.settings import Settings, load
from router.settings.embedder_sections import HashingSection
from router.settings.paths import store_url
from router.stores.open import Stores, open_stores
from router.types import DecisionRecord, Feedback, NanoUsd, SettlementRecord

ADMIN = "sk-admin-of-the-first-paint"
BAR_MS = 300
WIDTHS = (390, 1440)
SHOWN = {  # by part: what is there once all that it asks for has come
    "run": "[aria-label='Latest decisions'] tbody tr",
    "proof": "[aria-label='Spend by tenant'] tbody tr",
    "manage": "[aria-label=Prices] tbody tr",
}
PAINTS = "performance.getEntriesByType('paint').map((each) => [each.name, each.startTime])"
BATCH = 400
SPAN_S = 30 * 86_400.0  # that the log is of
QUIET_S = 3.0
PATIENT_S = 900.0
HEAD = [
    "| log | window | first paint, ms | with content, ms | Run, ms | Proof, ms | Manage, ms |",
    "|---|---|---|---|---|---|---|",
]


async def fill(settings: Settings, decisions: int) -> None:
    """Decisions of the last thirty days over the packaged models, as gateways would have logged them."""
    rng = np.random.default_rng(0)
    section = settings.embedder
    assert isinstance(section, HashingSection)  # the default
    texts = [str(body["messages"]) for body in prompts(2_000)]
    rows = unit_rows(HashingEmbedder(section.dim).embed_now(texts))
    async with open_stores(store_url(settings), clock=lambda: int(time.time() * 1000)) as stores:
        began = time.time() - SPAN_S
        for start in range(0, decisions, BATCH):
            numbers = range(start, min(start + BATCH, decisions))
            moments = [began + SPAN_S * number / decisions for number in numbers]
            await _remember(stores, [*zip(numbers, moments, strict=True)], rows, rng)


async def _remember(stores: Stores, made: Sequence[tuple[int, float]], rows: Any, rng: np.random.Generator) -> None:
    arms = tuple(Arm(each.name, 1e-7, 4e-7) for each in family())
    even = np.full(len(arms), 1 / len(arms))
    expected = Evidence(Estimates(np.full(len(arms), 0.5), np.full(len(arms), 0.1), np.full(len(arms), 1e-6)))
    judged = []
    for number, at_s in made:
        key, arm, at_ms = f"paint{number:08d}", arms[int(rng.integers(len(arms)))].name, int(at_s * 1000)
        context = LoggedContext(key, "acme", 0.5, rows[number % len(rows)], arms, 60, 235, 64, at_s)
        await stores.log.remember(DecisionRecord(context, expected, even, arm, "random", key_id="k"))
        paid = SettlementRecord(key, at_ms, arm, NanoUsd(900), 60, 14, "settled", latency_ms=9.0, tenant="acme")
        await stores.log.remember(paid)
        if number % 4 == 0:
            judged.append(Feedback(key, at_ms, float(rng.random() < 0.7), tenant="acme"))
    await asyncio.gather(*(stores.log.judge(each) for each in judged))


@contextmanager
def gateway(folder: Path, store: str | None, decisions: int) -> Iterator[str]:
    """The URL of a gateway that has learned its log."""
    folder.mkdir()
    port, config = free_port(), folder / "pointsman.yaml"
    settings: dict[str, Any] = {
        "server": {"port": port, "grace_s": 0},
        "state_dir": str(folder / "state"),
        "auth": {"admin_key": ADMIN},
        "tenants": {"acme": {"budgets": ["5 USD per day"], "preference": 0.4}},
    }
    config.write_text(yaml.safe_dump(settings | ({"store": {"redis": store}} if store else {})))
    (folder / "state").mkdir()
    asyncio.run(fill(load(config), decisions))
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config)]
    url = f"http://127.0.0.1:{port}"
    with running(command, ready=f"{url}/ready", log=folder / "log", wait_s=PATIENT_S) as tree:
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=60) as client:
            for body in prompts(20):
                client.post("/v1/chat/completions", json=body).raise_for_status()
        _rest(tree)
        yield url


def _rest(tree: Tree) -> None:
    """Wait until all that follows a start is done. Raises: SystemExit where it never is."""
    deadline = time.monotonic() + PATIENT_S
    while time.monotonic() < deadline:
        before = tree.cpu_s() + tree.aside_cpu_s()
        time.sleep(QUIET_S)
        if tree.cpu_s() + tree.aside_cpu_s() - before < 0.1 * QUIET_S:
            return
    raise SystemExit("the gateway does not come to rest")


def look(browser: Any, url: str, width: int) -> dict[str, float]:
    """One load in a new browser profile: milliseconds to the paints, then from a click to all of each part."""
    context = browser.new_context(viewport={"width": width, "height": 860})
    try:
        page = context.new_page()
        page.goto(f"{url}/", wait_until="load")
        found = _paints(page)
        page.fill("#key", ADMIN)
        page.press("#key", "Enter")
        page.wait_for_selector("#key-state .good")
        for name, shown in SHOWN.items():
            began = time.perf_counter()
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector(shown, state="attached")
            found[name] = (time.perf_counter() - began) * 1000
        return found
    finally:
        context.close()


def _paints(page: Any) -> dict[str, float]:
    """Milliseconds to both, as the browser tells them once they are over; the page's policy lets nothing wait in it."""
    while len(found := dict[str, float](page.evaluate(PAINTS))) < 2:
        time.sleep(0.02)
    return found


def row(log: str, width: int, loads: Sequence[dict[str, float]]) -> str:
    """Median and worst of each."""
    names = ("first-paint", "first-contentful-paint", *SHOWN)
    taken = [[each[name] for each in loads] for name in names]
    return f"| {log} | {width} px | " + " | ".join(f"{median(each):.0f} … {max(each):.0f}" for each in taken) + " |"


def measured(url: str, log: str, loads: int) -> list[str]:
    """Rows of the table."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (of the extra `test`)

    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        look(browser, url, WIDTHS[0])  # the browser itself warms up
        lines = [row(log, width, [look(browser, url, width) for _ in range(loads)]) for width in WIDTHS]
        browser.close()
    print(*lines, sep="\n", flush=True)
    return lines


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis with an append-only file; its URL."""
    port = free_port()
    words = [redis_server(), "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    child = Child("redis", port, words, folder / "redis.log")
    child.start()
    try:
        asyncio.run(child.listening())
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        child.kill()


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and put the table into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--loads", type=int, default=20, help="of each width")
    parser.add_argument(
        "--stores", nargs="+", choices=("empty", "sqlite", "redis"), default=["empty", "sqlite", "redis"]
    )
    parser.add_argument("--write", type=Path, help="a page with marks for the table")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        full = f"{arguments.decisions:,} decisions"
        cases: dict[str, Callable[[], tuple[str, str | None, int]]] = {
            "empty": lambda: ("SQLite, empty", None, 0),
            "sqlite": lambda: (f"SQLite, {full}", None, arguments.decisions),
            "redis": lambda: (f"Redis, {full}", stack.enter_context(redis(folder)), arguments.decisions),
        }
        lines = list(HEAD)
        for name in arguments.stores:
            log, store, decisions = cases[name]()
            with gateway(folder / name, store, decisions) as url:
                lines += measured(url, log, arguments.loads)
    print(f"\n{provenance()}")
    if arguments.write is not None:
        put(arguments.write, "first paint", lines)


if __name__ == "__main__":
    main()
