"""The page while Redis is away and once it is back, and beside a second gateway on the same Redis."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.child import Child, free_port
from tests.http.conftest import Running
from tests.page.conftest import ADMIN, client, gateway_in, give_key, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(REDIS is None, reason="no redis-server")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Child]:
    port = free_port()
    words = [str(REDIS), "--port", str(port), "--dir", str(tmp_path), "--appendonly", "yes", "--save", ""]
    found = Child("redis", port, [*words, "--appendfsync", "always"], tmp_path / "redis.log")
    found.start()
    yield found
    found.kill()


@contextmanager
def gateway_on(redis: Child, folder: Path) -> Iterator[Running]:
    folder.mkdir()
    with gateway_in(folder, store={"redis": f"redis://127.0.0.1:{redis.port}/0"}) as found:
        yield found


def test_what_is_missing_is_said_and_comes_back(browser: Browser, redis: Child, tmp_path: Path) -> None:
    said: list[str] = []
    with gateway_on(redis, tmp_path / "one") as gateway, opened(browser, gateway, said=said) as page:
        give_key(page, ADMIN)
        for name in ("proof", "run", "manage"):
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector("main .card h2")
        redis.kill()
        for name in ("proof", "run", "manage"):
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector("main [role=alert]")
            assert "away" in page.inner_text("main [role=alert] >> nth=0"), page.inner_text("main")
        page.click("nav a[href='#try']")
        page.fill("#ask", "What is 17 + 25?")
        page.press("#ask", "Enter")
        page.wait_for_selector(".turn:last-child [role=alert]")
        assert str(redis.port) not in page.inner_text(".turn:last-child")
        with client(gateway, "sk-nobody") as anyone:
            refused = anyone.post("/v1/chat/completions", json={"model": "auto", "messages": []})
        assert (refused.status_code, str(redis.port) in refused.text) == (503, False)
        redis.start()
        for name in ("run", "proof", "manage"):
            page.click("nav a[href='#try']")
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector("main [role=alert]", state="detached")
            page.wait_for_selector("main .card h2")
        page.click("nav a[href='#try']")
        while not page.locator(".turn:last-child .answer:has-text('42')").count():  # holds are restored meanwhile
            page.fill("#ask", "What is 17 + 25?")
            page.press("#ask", "Enter")
            page.wait_for_selector("#send[aria-disabled=false]")
            page.wait_for_timeout(200)
        said.clear()


def test_what_one_gateway_was_told_another_shows(browser: Browser, redis: Child, tmp_path: Path) -> None:
    with gateway_on(redis, tmp_path / "one") as one, gateway_on(redis, tmp_path / "two") as two:
        with client(one, ADMIN) as admin:
            made: dict[str, Any] = admin.post("/admin/v1/keys", json={"tenant": "beta", "name": "of one"}).json()
        with opened(browser, two) as page:
            give_key(page, made["secret"])
            page.fill("#ask", "What is 17 + 25?")
            page.press("#ask", "Enter")
            page.wait_for_selector("section[aria-label=Decision] tr.chosen")
            give_key(page, ADMIN)
            page.click("nav a[href='#manage']")
            page.wait_for_selector(f"[aria-label=Keys] td:has-text('{made['id']}')")
        with opened(browser, one) as page:
            give_key(page, ADMIN)
            page.click("nav a[href='#run']")
            page.wait_for_selector("[aria-label='Latest decisions'] td:has-text('beta')")
            page.click("nav a[href='#proof']")
            page.wait_for_selector("[aria-label='Spend by tenant'] td:has-text('beta')")
