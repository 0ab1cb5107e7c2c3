"""All four parts by the keyboard alone, in every window and colour: nothing needs a mouse, and no focus is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import Running
from tests.page.conftest import ACME, ADMIN, WINDOWS, client, opened
from tests.page.keyboard import focused, press, tab_to, write
from tests.page.test_decisions import asked

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

everywhere = pytest.mark.parametrize(("width", "scheme"), WINDOWS)


def axe(page: Page) -> list[tuple[str, str]]:
    """What axe finds on the page as it is now."""
    run = pytest.importorskip("axe_playwright_python.sync_playwright").Axe().run
    return [(each["id"], each["nodes"][0]["html"][:200]) for each in run(page).response["violations"]]


def enter(page: Page, name: str, key: str = ADMIN) -> None:
    """Type the key, and go to a part by its link."""
    tab_to(page, "#key")
    page.keyboard.type(f"{key}\n")
    page.wait_for_selector("#key-state .good")
    press(page, f"nav a[href='#{name}']", back=True)
    page.wait_for_selector(f"nav a[href='#{name}'][aria-current]")


@everywhere
def test_try_is_used_by_the_keyboard_alone(browser: Browser, gateway: Running, width: int, scheme: Any) -> None:
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        tab_to(page, "#key")
        page.keyboard.type(f"{ACME}\n")
        page.wait_for_selector(".examples button")
        press(page, ".examples button")
        page.wait_for_selector(".turn:last-child .facts b")
        page.wait_for_selector("section[aria-label=Decision] tr.chosen")
        assert focused(page) == "ask"
        press(page, "[aria-label='This answer is right']", back=True)
        page.wait_for_selector("[aria-label='This answer is right'][aria-pressed=true]")
        assert focused(page) == "This answer is right"
        write(page, "#ask", "What is the capital of France?\n")
        page.wait_for_selector("[role=alert]:has-text('None of the packaged models')")
        assert focused(page) == "Send it anyway"
        page.keyboard.press("Enter")
        page.wait_for_selector(".turn:nth-child(2) .facts b")
        assert focused(page) == "ask"
        page.keyboard.type("Multiply 16 by 4.")
        press(page, "#model", "s")  # a list goes to what begins so
        assert page.input_value("#model").startswith("s")
        press(page, "#preference", "End")
        assert page.input_value("#preference") == "1"
        press(page, "#send")
        page.wait_for_selector("text=was asked for by name")
        assert focused(page) == "send"
        tab_to(page, "section[aria-label=Decision] .table")
        assert axe(page) == []


@everywhere
def test_proof_is_used_by_the_keyboard_alone(
    browser: Browser, proven: tuple[Running, Path], width: int, scheme: Any
) -> None:
    gateway, _ = proven
    with client(gateway, ADMIN) as admin:
        asked(admin, model="small@4bit")
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        enter(page, "proof")
        page.wait_for_selector("[aria-label='Spend by tenant']")
        press(page, "#make")
        page.wait_for_selector("[aria-label='Policies compared'] td:has-text('always large')", timeout=60_000)
        page.wait_for_selector("#make:not([aria-disabled=true])", timeout=60_000)
        assert focused(page) == "make"
        tab_to(page, "[aria-label='Policies compared']")
        press(page, "#by", "m")
        page.wait_for_selector("[aria-label='Spend by model']")
        assert focused(page) == "by"
        press(page, "#days", "Home")
        assert page.input_value("#days") == "1"
        press(page, "summary:not([open] *)")
        tab_to(page, "[aria-label='Quality and cost over time']")
        press(page, "#quality-by", "w")
        page.wait_for_selector("[aria-label='Quality by width']")
        tab_to(page, "[aria-label='Drift of quality']")
        assert axe(page) == []


@everywhere
def test_run_is_used_by_the_keyboard_alone_while_it_is_drawn_anew(
    browser: Browser, gateway: Running, width: int, scheme: Any
) -> None:
    with client(gateway) as tenant:
        asked(tenant)
        tenant.post("/v1/chat/completions", json={"model": "nobody", "messages": []})
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        enter(page, "run")
        page.wait_for_selector("pre.settings-text")
        for name in ("Engines", "Models and widths", "Budgets", "Latest decisions", "Refusals"):
            tab_to(page, f"[aria-label='{name}']")
            page.keyboard.press("ArrowRight")
            drawn_anew(page)
            assert focused(page) == name
        press(page, "#everything", "Space")
        page.wait_for_selector("pre.settings-text:has-text('loopback')")
        assert focused(page) == "everything"
        assert page.is_checked("#everything")
        tab_to(page, "pre.settings-text")
        assert axe(page) == []


def drawn_anew(page: Page) -> None:
    """Wait until the tables are others than now."""
    page.evaluate("for (const each of document.querySelectorAll('main tbody')) each.dataset.old = '1'")
    page.wait_for_selector("[aria-label=Refusals] tbody:not([data-old])", state="attached")


@everywhere
def test_manage_is_used_by_the_keyboard_alone(browser: Browser, gateway: Running, width: int, scheme: Any) -> None:
    name = f"typed-{width}-{scheme}"
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        enter(page, "manage")
        page.wait_for_selector("[aria-label=Tenants] td:has-text('acme')")
        press(page, "#new-tenant")
        assert focused(page) == "t-name"
        page.keyboard.type(name)
        write(page, "#t-budgets", "3 USD per day")
        assert axe(page) == []
        page.keyboard.press("Enter")
        page.wait_for_selector(f"[aria-label='Edit {name}']")
        assert focused(page) == f"edit-{name}"
        page.keyboard.press("Enter")
        assert focused(page) == "t-budgets"
        page.keyboard.type(", 4 USD per month")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"tr:has-text('{name}'):has-text('4 USD per month')")
        assert focused(page) == f"edit-{name}"
        page.keyboard.press("Enter")
        press(page, "#t-cancel")
        assert focused(page) == f"edit-{name}"
        a_key_is_made(page, name)
        a_price_is_changed(page)


def a_key_is_made(page: Page, name: str) -> None:
    press(page, "#new-key")
    write(page, "#k-tenant", name)
    page.keyboard.press("Escape")  # of the names that are offered
    page.keyboard.press("Enter")
    page.wait_for_selector("code.secret")
    assert focused(page) == page.inner_text("code.secret")
    assert axe(page) == []
    press(page, "#have-it")
    assert focused(page) == "new-key"
    row = page.locator("[aria-label=Keys] tr", has_text=name)
    turn, rotate = (row.locator("button").nth(i).get_attribute("id") for i in (1, 0))
    press(page, f"[id='{turn}']", back=True)
    page.wait_for_selector(f"[id='{turn}']:has-text('Enable')")
    assert focused(page) == turn
    page.keyboard.press("Enter")
    page.wait_for_selector(f"[id='{turn}']:has-text('Disable')")
    press(page, f"[id='{rotate}']", back=True)
    page.wait_for_selector("code.secret")
    press(page, "#have-it")
    assert focused(page) == rotate


def a_price_is_changed(page: Page) -> None:
    model = "small@6bit"
    press(page, f"[aria-label='Price of {model}']")
    assert focused(page) == "p-prompt"
    write(page, "#p-completion", "0.75")
    assert axe(page) == []
    page.keyboard.press("Enter")
    page.wait_for_selector(f"[aria-label=Prices] tr:has-text('{model}'):has-text('0.75')")
    assert focused(page) == f"price-{model}"
    page.keyboard.press("Enter")
    press(page, "#p-take-back")
    page.wait_for_selector(f"[aria-label=Prices] tr:has-text('{model}'):not(:has-text('0.75'))")
    assert focused(page) == f"price-{model}"
