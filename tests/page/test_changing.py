"""The page stays open while the gateway changes under it: keys end, models go, it restarts, engines break off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running
from tests.http.module import candidates, gateway_over
from tests.page.conftest import ACME, ADMIN, client, give_key, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ERROR = ".turn:last-child [role=alert]"
LONG = Line(text="word " * 400, piece_delay_s=0.05)
PIECES = 30_000
POOR = "sk-poor-on-the-page"
BROKEN = Line(text="word " * 40, trouble="reset", trouble_after=3)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    def settings(engine: ScriptedServer) -> dict[str, Any]:
        names: dict[str, dict[str, Any]] = {"long": {}, "broken": {}, "later-gone": {}, "pieces": {}}
        made = candidates(tmp_path, engine, names)
        tenants = {
            "acme": {"keys": [{"secret": ACME}], "budgets": ["1 USD per day"]},
            "poor": {"keys": [{"secret": POOR}], "budgets": ["0.15 USD per day"]},
        }
        return {**made, "auth": {"admin_key": ADMIN}, "tenants": tenants, "reload": {"every_s": 0.1}}

    pieces = Line(text="word " * PIECES)
    script = by_model({"pieces": pieces, "long": LONG, "broken": BROKEN, "later-gone": Line(text="fine")})
    with gateway_over(tmp_path, script, settings) as (running, _):
        yield running


def ask(page: Page, model: str, text: str = "hello") -> None:
    page.select_option("#model", model)
    page.fill("#ask", text)
    page.press("#ask", "Enter")


def test_a_key_that_is_revoked_is_said_beside_its_field_and_where_it_was_used(
    browser: Browser, gateway: Running
) -> None:
    with client(gateway, ADMIN) as admin:
        made = admin.post("/admin/v1/keys", json={"tenant": "beta"}).json()
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        give_key(page, made["secret"])
        with client(gateway, ADMIN) as admin:
            assert admin.post(f"/admin/v1/keys/{made['id']}/disable").is_success
        ask(page, "later-gone")
        page.wait_for_selector(ERROR + ":has-text('disabled')")
        assert page.inner_text("#key-state") == "unknown key"
        give_key(page)
        ask(page, "later-gone")
        page.wait_for_selector(".turn:last-child .answer:has-text('fine')")
        said.clear()  # the browser's own words about the status


def test_a_model_that_the_settings_lose_is_offered_no_more_once_it_was_asked(
    browser: Browser, gateway: Running
) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        give_key(page)
        page.wait_for_selector("#model option:has-text('later-gone')", state="attached")
        settings = yaml.safe_load(gateway.config.read_text())
        settings["models"] = [each for each in settings["models"] if each["name"] != "later-gone"]
        gateway.rewrite(settings)
        with client(gateway) as tenant:
            while "later-gone" in tenant.get("/v1/models").text:
                time.sleep(0.05)
        ask(page, "later-gone")
        page.wait_for_selector(ERROR + ":has-text('later-gone')")
        page.wait_for_selector("#model option:has-text('later-gone')", state="detached")
        assert page.input_value("#model") == "auto"
        said.clear()


def test_an_answer_that_breaks_off_keeps_its_words_and_says_so(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        give_key(page)
        ask(page, "broken")
        page.wait_for_selector(ERROR)
        assert page.inner_text(".turn:last-child .answer").startswith("word")
        assert page.get_attribute("#send", "aria-disabled") == "false"


def test_an_answer_of_many_pieces_does_not_stop_the_page(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        give_key(page)
        page.evaluate("""() => { window.drawn = 0; new MutationObserver((found) => { drawn += found.length; })
            .observe(document.querySelector('.talk'), { childList: true, subtree: true }); }""")
        ask(page, "pieces")
        page.wait_for_selector(".turn:last-child .facts button", timeout=120_000)
        assert len(page.inner_text(".turn:last-child .answer").split()) == PIECES
        assert page.evaluate("drawn") < PIECES / 10  # not once a piece: that is quadratic


def test_whose_money_ends_during_an_answer_has_all_of_it_and_is_told_at_the_next(
    browser: Browser, gateway: Running
) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        give_key(page, POOR)
        for _ in range(4):
            ask(page, "pieces")
            page.wait_for_selector(".turn:last-child .facts > *", timeout=120_000)
            if page.locator(ERROR).count():
                break
            assert len(page.inner_text(".turn:last-child .answer").split()) == PIECES
        assert "The budget of tenant:poor is 0.15 USD" in page.inner_text(ERROR)
        assert page.locator(".turn").count() > 1
        said.clear()


def test_a_gateway_that_dies_is_said_and_the_next_one_is_used(browser: Browser, gateway: Running) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#run']")
        page.wait_for_selector("pre.settings-text")
        page.click("nav a[href='#try']")
        ask(page, "long")
        page.wait_for_selector(".turn:last-child .answer:has-text('word')")
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
        page.wait_for_selector(ERROR + ":has-text('broke off')")
        ask(page, "long")
        page.wait_for_selector(ERROR + ":has-text('does not answer')")
        page.click("nav a[href='#run']")
        page.wait_for_selector("main [role=alert]:has-text('does not answer')")
        with again(gateway):
            page.wait_for_selector("pre.settings-text", timeout=120_000)
            page.wait_for_selector("[aria-label='Latest decisions'] td:has-text('long')")
        said.clear()


@contextmanager
def again(gateway: Running) -> Iterator[None]:
    """Another gateway at the address of one that has gone."""
    port = str(urlsplit(gateway.url).port)
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(gateway.config), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
