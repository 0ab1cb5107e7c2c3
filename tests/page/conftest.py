"""One gateway with the packaged models for all tests of the page, and a headless Chromium where there is one."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from router.stores.open import open_stores
from router.types import Feedback
from tests.http.conftest import Running, serving
from tests.policies.test_judgement import make_entries

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ADMIN, ACME = "sk-admin-of-the-page", "sk-acme-on-the-page"
HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=2</script>{{7*7}}${7*7}'
CHROMIUM = shutil.which("chromium")
PAGES = ("try", "proof", "run", "manage")
WINDOWS = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]
ANSWERS = 240  # in the log of `proven`


@contextmanager
def gateway_in(folder: Path, **more: Any) -> Iterator[Running]:
    """A gateway for code that is not asynchronous."""
    settings = {
        "state_dir": str(folder / "state"),
        "auth": {"admin_key": ADMIN},
        "log": {"keep_text": True},
        "policy": {"on_request": ["neighbours"]},
        "tenants": {"acme": {"keys": [{"secret": ACME}], "budgets": ["1 USD per day"]}},
    }
    opening = serving(folder, settings | more)
    runner = asyncio.Runner()
    with ThreadPoolExecutor(1) as aside:  # in a thread of its own: the browser's loop runs in this one
        gateway = aside.submit(runner.run, opening.__aenter__()).result()
        try:
            yield gateway
        finally:
            aside.submit(runner.run, opening.__aexit__(None, None, None)).result()
            aside.submit(runner.close).result()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway_in(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A gateway whose log has answers of two models, of which the live policy prefers the worse one."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "state").mkdir()
    with gateway_in(folder) as found, ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, fill(f"sqlite:///{folder}/state/pointsman.db")).result()
        yield found, folder


async def fill(url: str) -> None:
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        for entry in make_entries(ANSWERS):
            if isinstance(entry, Feedback):
                await stores.log.judge(entry)
            else:
                await stores.log.remember(entry)


def client(gateway: Running, key: str = ACME) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra test")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(
    browser: Browser, gateway: Running, *, width: int = 1440, scheme: Any = "light", said: list[str] | None = None
) -> Iterator[Page]:
    """The page in a window; at the end nothing may have been said in its console."""
    said = [] if said is None else said
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{gateway.url}/")
    try:
        yield page
        assert said == []
    finally:
        context.close()


def give_key(page: Page, key: str = ACME) -> None:
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.wait_for_selector("#key-state .good")
