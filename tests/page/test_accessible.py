"""Every page, in every window and colour, is looked through by axe: it finds nothing serious, and nothing minor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import Running
from tests.page.conftest import ADMIN, PAGES, client, give_key, opened
from tests.page.test_decisions import asked

if TYPE_CHECKING:
    from playwright.sync_api import Browser

READY = {
    "try": "section[aria-label=Decision] tr.chosen",
    "proof": "[aria-label^='Spend by']",
    "run": "pre.settings-text",
    "manage": "[aria-label=Keys] td",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(browser: Browser, gateway: Running, width: int, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with client(gateway, ADMIN) as admin:
        asked(admin)
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        page.wait_for_selector("#ask")
        found = axe.run(page).response["violations"]
        give_key(page, ADMIN)
        page.wait_for_selector(".examples button")
        page.click(".examples button >> nth=0")
        for name in PAGES:
            page.click(f"nav a[href='#{name}']")
            page.wait_for_selector(READY[name])
            found += axe.run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
