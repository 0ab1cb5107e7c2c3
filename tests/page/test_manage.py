"""Manage: tenants and keys of the file and of the API as one list; those of the file are changed in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import Running
from tests.page.conftest import ACME, ADMIN, HOSTILE, client, give_key, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_file_and_the_api_are_one_list_with_their_source(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        assert admin.put("/admin/v1/tenants/zeta", json={"budgets": ["2 USD per day"]}).is_success
        made = admin.post("/admin/v1/keys", json={"tenant": "zeta", "name": "app"}).json()
        tenants = {each["name"]: each["source"] for each in admin.get("/admin/v1/tenants").json()["data"]}
        keys = {each["id"]: each for each in admin.get("/admin/v1/keys").json()["data"]}
        assert admin.get("/admin/v1/tenants/acme").json()["source"] == "file"
        after, paged = "", list[str]()
        while page := admin.get("/admin/v1/tenants", params={"limit": 1, "after": after}).json()["data"]:
            paged.append(after := page[0]["name"])
        assert paged == sorted(tenants)
        assert ACME not in admin.get("/admin/v1/keys").text
    assert (tenants["acme"], tenants["zeta"]) == ("file", "api")
    assert keys[made["id"]]["source"] == "api"
    (of_file,) = [each for each in keys.values() if each["source"] == "file"]
    assert of_file["tenant"] == "acme"


def test_what_is_in_the_file_is_a_conflict_that_names_the_file(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        (key,) = [each["id"] for each in admin.get("/admin/v1/keys").json()["data"] if each["source"] == "file"]
        refused = [
            admin.put("/admin/v1/tenants/acme", json={}),
            admin.patch("/admin/v1/tenants/acme", json={"preference": 1}),
            admin.put(f"/admin/v1/keys/{key}", json={}),
            admin.patch(f"/admin/v1/keys/{key}", json={}),
            admin.delete(f"/admin/v1/keys/{key}"),
            *[admin.post(f"/admin/v1/keys/{key}/{verb}", json={}) for verb in ("rotate", "disable", "enable")],
        ]
    assert {each.status_code for each in refused} == {409}
    assert all(str(gateway.config) in each.json()["error"]["message"] for each in refused)


def test_some_terms_are_changed_and_the_others_stay(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        admin.put("/admin/v1/tenants/beta", json={"budgets": ["2 USD per day"], "preference": 0.2})
        changed = admin.patch("/admin/v1/tenants/beta", json={"preference": 0.7}).json()
        wrong = admin.patch("/admin/v1/tenants/beta", json={"preference": 7})
        missing = admin.patch("/admin/v1/tenants/nobody", json={})
        key = admin.post("/admin/v1/keys", json={"tenant": "beta"}).json()["id"]
        assert admin.patch(f"/admin/v1/keys/{key}", json={"local_only": True}).json()["terms"]["local_only"] is True
        assert admin.delete(f"/admin/v1/keys/{key}").json()["terms"]["disabled"] is True
        audit = admin.get("/admin/v1/audit?limit=1000").json()["data"]
    assert (changed["terms"]["preference"], changed["terms"]["budgets"][0]["limit"]) == (0.7, "2")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "preference")
    assert missing.status_code == 404
    assert [each["detail"]["by"] for each in audit if each["subject"] == key] == ["admin"] * 3


def test_a_tenant_is_made_once_and_its_deletion_refuses_its_keys(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        assert admin.post("/admin/v1/tenants/delta", json={}).status_code == 201
        again = [admin.post(f"/admin/v1/tenants/{name}", json={}).status_code for name in ("delta", "acme")]
        assert admin.put("/admin/v1/teams/crew", json={"tenant": "delta"}).is_success
        assert admin.patch("/admin/v1/teams/crew", json={"preference": 0.9}).json()["terms"]["preference"] == 0.9
        secret = admin.post("/admin/v1/keys", json={"tenant": "delta", "team": "crew"}).json()["secret"]
        with client(gateway, secret) as tenant:
            assert tenant.get("/v1/models").is_success
            assert admin.delete("/admin/v1/teams/crew").json()["terms"]["disabled"] is True
            assert tenant.get("/v1/models").status_code == 401
            assert admin.delete("/admin/v1/tenants/delta").json()["terms"]["disabled"] is True
    assert again == [409, 409]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_a_tenant_and_a_key_are_made_on_the_page_and_the_key_works(
    browser: Browser, gateway: Running, width: int, scheme: str
) -> None:
    name = f"made-{width}"
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#manage']")
        page.wait_for_selector("[aria-label=Tenants] td:has-text('acme')")
        assert page.locator("[aria-label=Tenants] tr", has_text="acme").locator("button").count() == 0
        page.click("text=New tenant")
        page.fill("#t-name", name)
        page.fill("#t-budgets", "3 USD per day")
        page.press("#t-budgets", "Enter")
        page.wait_for_selector(f"[aria-label='Edit {name}']")
        page.click("text=New key")
        page.fill("#k-tenant", name)
        page.fill("#k-name", HOSTILE[:60])
        page.press("#k-tenant", "Enter")
        secret = page.inner_text("code.secret")
        with client(gateway, secret) as tenant:
            assert tenant.get("/v1/models").is_success
        page.click("text=I have it")
        assert secret not in page.content()
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("[aria-label=Keys] tr", has_text=name).locator("button", has_text="Disable").click()
        page.wait_for_selector(f"[aria-label=Keys] tr:has-text('{name}') button:has-text('Enable')")
        with client(gateway, secret) as tenant:
            assert tenant.get("/v1/models").status_code == 401


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_a_price_is_changed_at_once_and_from_a_day_on_and_taken_back(
    browser: Browser, gateway: Running, width: int, scheme: str
) -> None:
    def shown() -> dict[str, Any]:
        with client(gateway, ADMIN) as admin:
            found = admin.get("/admin/v1/prices").json()["data"]
        (one,) = [dict(each) for each in found if each["model"] == model]
        return one

    model = "small@4bit"
    listed = shown()["price"]
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#manage']")
        page.click(f"[aria-label='Price of {model}']")
        page.fill("#p-prompt", "0.5")
        page.press("#p-prompt", "Enter")
        page.wait_for_selector(f"[aria-label=Prices] tr:has-text('{model}'):has-text('API')")
        assert shown()["price"] == {**listed, "prompt": "0.5"}
        page.click(f"[aria-label='Price of {model}']")
        page.fill("#p-completion", "0.75")
        page.fill("#p-from", "2999-01-31")
        page.press("#p-completion", "Enter")
        page.wait_for_selector(f"[aria-label='Price of {model}']")
        page.wait_for_selector("#p-from", state="detached")
        assert shown()["price"] == {**listed, "prompt": "0.5"}
        assert [(each["since"], each["completion"]) for each in shown()["section"]["changes"]] == [
            ("2999-01-31", "0.75")
        ]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click(f"[aria-label='Price of {model}']")
        page.click("text=Take it back")
        page.wait_for_selector("#p-from", state="detached")
    assert (shown()["source"], shown()["price"]) == ("list", listed)


def test_what_the_gateway_refuses_is_shown(browser: Browser, gateway: Running) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#manage']")
        page.click("text=New tenant")
        page.fill("#t-name", "gamma")
        page.fill("#t-budgets", "plenty")
        page.press("#t-budgets", "Enter")
        page.wait_for_selector("[role=alert]:has-text('expected a budget')")
        said.clear()  # the browser's own words about the status
