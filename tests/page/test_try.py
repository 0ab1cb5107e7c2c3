"""Try, as a person with a mouse, a telephone or only a keyboard uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import Running
from tests.page.conftest import ADMIN, HOSTILE, PAGES, WINDOWS, client, give_key, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ANSWERED = ".turn:last-child .facts b"


def ask(page: Page, text: str) -> None:
    page.fill("#ask", text)
    page.press("#ask", "Enter")


def explained(page: Page) -> list[str]:
    page.wait_for_selector("section[aria-label=Decision] tbody tr.chosen")
    rows: list[str] = page.locator("section[aria-label=Decision] tbody tr").all_inner_texts()
    return rows


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_an_example_is_answered_and_the_decision_is_shown(
    browser: Browser, gateway: Running, width: int, scheme: Any
) -> None:
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        give_key(page)
        page.click(".examples button >> nth=0")
        page.wait_for_selector(ANSWERED)
        rows = explained(page)
        assert len([row for row in rows if "bit" in row]) >= 10  # every model of the family
        assert page.locator("tr.chosen td").first.inner_text() == page.locator(ANSWERED).inner_text()
        for heading in ("Model", "q̂ ± σ", "ĉ, ", "Score", "Chance"):
            assert page.locator("[aria-label=Candidates] th", has_text=heading).is_visible(), heading
        assert page.locator("[aria-label=Candidates]").evaluate("e => e.scrollWidth - e.clientWidth") == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_works_by_the_keyboard_alone(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
            if reached[-1] == "key":
                break
        assert reached[0] == "Skip to the content"
        assert {"Try", "Proof", "Run", "Manage", "key"} <= set(reached)
        page.keyboard.type("sk-acme-on-the-page\n")
        page.wait_for_selector("#key-state .good")
        page.focus("#ask")
        page.keyboard.type("Multiply 16 by 4.\n")
        page.wait_for_selector(ANSWERED)
        explained(page)
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.ariaLabel") == "This answer is right":
                break
            page.keyboard.press("Shift+Tab")
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("button[aria-pressed=true]")


def test_a_thumb_is_learned_from(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        give_key(page)
        ask(page, "Convert 93 km to m.")
        page.wait_for_selector(ANSWERED)
        page.click("text=Wrong")
        page.wait_for_selector("text=learned")
        page.click("text=Right")  # another opinion takes the place of the first
        page.wait_for_selector("button[aria-label='This answer is right'][aria-pressed=true]")


def test_what_no_packaged_model_can_do_is_said_and_not_answered(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        give_key(page)
        page.wait_for_selector(".examples button")
        ask(page, "What is the capital of France?")
        assert "None of the packaged models can do this" in page.inner_text("[role=alert]")
        assert page.locator(".turn").count() == 0
        page.click("text=Send it anyway")
        page.wait_for_selector(ANSWERED)


def test_the_preference_moves_the_choice_and_a_model_can_be_named(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        give_key(page)
        page.evaluate("e = document.querySelector('#preference'); e.value = 1; e.dispatchEvent(new Event('input'))")
        ask(page, "What is 20% of 150?")
        page.wait_for_selector("section[aria-label=Decision] >> text=preference 1 ·")
        page.select_option("#model", "small@3bit")
        ask(page, "What is 20% of 150?")
        page.wait_for_selector("text=was asked for by name")


def test_a_hostile_prompt_stays_text(browser: Browser, gateway: Running) -> None:
    with client(gateway) as tenant:
        body = {"model": "auto", "messages": [{"role": "user", "content": f"Plural of {HOSTILE}?"}]}
        decision = tenant.post("/v1/chat/completions", json=body).headers["x-pointsman-decision-id"]
        assert tenant.post("/v1/feedback", json={"decision_id": decision, "score": 1}).is_success
    with opened(browser, gateway) as page:
        give_key(page)
        ask(page, f"Plural of {HOSTILE}?")
        page.wait_for_selector(ANSWERED)
        explained(page)
        page.wait_for_selector(f"td.wrap:has-text('{HOSTILE[:8]}')")  # among the nearest past queries
        assert HOSTILE in page.inner_text(".said")
        assert page.locator("main img, main script").count() == 0
        assert page.title() == "Try · Pointsman"


def test_the_key_is_kept_nowhere_and_sent_to_nobody_else(browser: Browser, gateway: Running) -> None:
    with opened(browser, gateway) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        give_key(page, ADMIN)
        for name in PAGES:
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector(f"nav a[href='#{name}'][aria-current]")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert all(url.startswith(gateway.url) for url in asked)
        assert not any("sk-" in url for url in asked)
        page.reload()
        assert page.input_value("#key") == ""
        assert page.inner_text("#key-state") in ("", "needed")


def test_a_key_that_is_typed_before_all_of_the_page_has_come_is_taken(browser: Browser, gateway: Running) -> None:
    held: list[Any] = []
    context = browser.new_context()
    page = context.new_page()
    page.route("**/page/about", lambda route: held.append(route))  # noqa: PLW0108  (playwright looks at its signature)
    page.goto(f"{gateway.url}/")
    give_key(page)
    for route in held:  # what the page asked before it had a key is answered last
        route.continue_()
    page.wait_for_selector(".examples button")
    assert page.inner_text("#key-state").endswith("models")
    context.close()


def test_a_wrong_key_is_said(browser: Browser, gateway: Running) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        page.fill("#key", "sk-nobody")
        page.press("#key", "Enter")
        page.wait_for_selector("text=unknown key")
        said.clear()
