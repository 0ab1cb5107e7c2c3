"""Hundreds of models with long names and thousands of tenants: all are found, and no window is too narrow for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running
from tests.http.module import gateway_over
from tests.page.conftest import ADMIN, client, give_key, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MODELS, TENANTS, KEY = 500, 5000, "sk-last-0123456789"
LONG = "an-organisation-of-some-length/a-model-whose-name-never-ends-" + "x" * 40
BESIDE = """() => [...document.querySelectorAll('body *')]
    .filter((each) => !each.closest('.table') || each.matches('.table'))
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => each.outerHTML.slice(0, 200))"""  # what is beside the window
RIGHT_TO_LEFT, TURNED = "مستأجر-שוכר", "\u202egnp.exe"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("many")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        price = {"prompt": 1, "completion": 1}
        made = [
            {"name": f"{LONG}{number:03}", "backend": "one", "price": price, "context_tokens": 4000}
            for number in range(MODELS)
        ]
        tenants: dict[str, Any] = {f"t{number:04}": {"budgets": ["1 USD per day"]} for number in range(TENANTS)}
        tenants["z" * 100] = tenants["zz-last"] = {}
        tenants["zz-last"] = {"keys": [{"secret": KEY}]}
        return {
            "state_dir": str(folder / "state"),
            "policy": {"name": "cheapest"},
            "backends": {"one": {"kind": "vllm", "url": engine.url}},
            "models": made,
            "tenants": tenants,
            "auth": {"admin_key": ADMIN},
            "log": {"keep_text": True},
        }

    with gateway_over(folder, always(Line(text=f"{RIGHT_TO_LEFT} {TURNED} {'y' * 300}")), settings) as (running, _):
        yield running


@pytest.mark.parametrize("width", [390, 1440])
def test_an_answer_of_one_of_many_models_is_shown_with_its_decision(
    browser: Browser, gateway: Running, width: int
) -> None:
    with opened(browser, gateway, width=width) as page:
        give_key(page, KEY)
        page.fill("#ask", f"{RIGHT_TO_LEFT} {TURNED} {'w' * 500}")
        page.press("#ask", "Enter")
        page.wait_for_selector(".turn .answer:has-text('yyy')")
        page.wait_for_selector("section[aria-label=Decision] tr.chosen")
        assert page.evaluate(BESIDE) == []


@pytest.mark.parametrize("width", [390, 1440])
def test_whoever_is_beyond_the_first_hundred_is_found(browser: Browser, gateway: Running, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with client(gateway, ADMIN) as admin:
        assert admin.put(f"/admin/v1/tenants/{RIGHT_TO_LEFT}", json={}).is_success
        assert admin.post("/admin/v1/keys", json={"tenant": RIGHT_TO_LEFT, "name": RIGHT_TO_LEFT}).is_success
    with opened(browser, gateway, width=width) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#manage']")
        page.wait_for_selector("text=/100 of 5,00. are shown/")
        found = axe.run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
        for found in ("t4987", "zz-last", RIGHT_TO_LEFT):
            page.fill("#find-tenant", found)
            page.wait_for_selector(f"[aria-label=Tenants] td:text-is('{found}')")
            assert page.locator("[aria-label=Tenants] tbody tr").count() == 1
        page.fill("#find-price", "x477")
        page.wait_for_selector("[aria-label=Prices] td:has-text('x477')")
        assert page.locator("[aria-label=Prices] tbody tr").count() == 1
        assert page.evaluate(BESIDE) == []


@pytest.mark.parametrize("width", [390, 1440])
def test_what_runs_is_shown_in_part_and_says_so(browser: Browser, gateway: Running, width: int) -> None:
    with opened(browser, gateway, width=width) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#run']")
        page.wait_for_selector("[aria-label=Budgets] tbody tr")
        assert page.locator("[aria-label=Budgets] tbody tr").count() == 100
        for name in ("Budgets", "Models and widths"):  # what comes below is not far below
            assert page.locator(f"[aria-label='{name}']").evaluate("e => e.clientHeight") < 500
        page.wait_for_selector("text=/[0-9]+ more budgets, less used are not shown/")
        assert page.evaluate(BESIDE) == []


def test_a_tenant_that_there_is_is_not_made_again(browser: Browser, gateway: Running) -> None:
    said: list[str] = []
    with client(gateway, ADMIN) as admin:
        assert admin.put("/admin/v1/tenants/once", json={"budgets": ["3 USD per day"]}).is_success
        with opened(browser, gateway, said=said) as page:
            give_key(page, ADMIN)
            page.click("nav a[href='#manage']")
            page.click("#new-tenant")
            page.fill("#t-name", "once")
            page.press("#t-name", "Enter")
            page.wait_for_selector("main [role=alert]:has-text('There is a tenant')")
            said.clear()
        (budget,) = admin.get("/admin/v1/tenants/once").json()["terms"]["budgets"]
    assert float(budget["limit"]) == 3
