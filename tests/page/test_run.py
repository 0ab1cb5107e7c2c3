"""Run: what the gateway stands on now, for admin keys alone; secrets are masked and prompts stay text."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from router.http.overview import MASKED, masked
from router.stores.forecasts import forecast
from router.telemetry.metrics import MOST_REFUSALS, PrometheusMetrics
from router.telemetry.recent import recent
from router.types import Balance, Budget, NanoUsd
from tests.http.conftest import Running
from tests.page.conftest import ACME, ADMIN, HOSTILE, client, give_key, opened
from tests.page.test_decisions import asked, decided

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROUTES = ("engines", "balances", "refusals", "decisions", "settings")
DAY_S = 86_400


def balance(spent: int, *, elapsed_s: int, calendar: str | None = "day") -> Balance:
    budget = Budget("tenant:acme", NanoUsd(1000), DAY_S, calendar=calendar)
    return Balance(budget, NanoUsd(spent), NanoUsd(0), (DAY_S - elapsed_s) * 1000)


def test_only_an_admin_key_sees_them(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, "") as anyone, client(gateway, ADMIN) as admin:
        for each in ROUTES:
            assert tenant.get(f"/admin/v1/{each}").status_code == 403
            assert anyone.get(f"/admin/v1/{each}").status_code == 401
            assert admin.get(f"/admin/v1/{each}").status_code == 200


def test_engines_say_whether_they_answer_and_how_their_breakers_stand(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        (family,) = admin.get("/admin/v1/engines").json()["data"]
    (engine,) = family["engines"]
    assert (family["backend"], family["up"], engine["breaker"]) == ("family", True, "closed")
    assert {"model": "large@4bit", "of": "large", "bits": 4, "admitted": True} in family["serves"]


def test_the_latest_decisions_come_first_with_their_cost(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, ADMIN) as admin:
        made = [decided(tenant, asked(tenant, f"Multiply {n} by 4.")) for n in (12, 13)]
        found = admin.get("/admin/v1/decisions?limit=2").json()["data"]
    assert [each["decision_id"] for each in found] == [each["decision_id"] for each in reversed(made)]
    assert [each["cost_usd"] for each in found] == [each["cost_usd"] for each in reversed(made)]
    assert {each["tenant"] for each in found} == {"acme"}


def test_a_budget_of_a_key_of_the_api_is_among_them_with_its_forecast(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        key = admin.post("/admin/v1/keys", json={"tenant": "beta", "budgets": ["0.5 USD per week"]}).json()["id"]
        admin.post("/admin/v1/keys", json={"tenant": "beta", "name": "budgets"})
        found = {each["scope"]: each for each in admin.get("/admin/v1/balances").json()["data"]}
    assert (found[f"key:{key}"]["limit_usd"], found[f"key:{key}"]["period"]) == (0.5, "week")
    assert found[f"key:{key}"]["forecast"]["says"]
    assert len([scope for scope in found if scope.startswith("key:")]) == 1


def test_refusals_are_counted_by_reason(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, ADMIN) as admin:
        body = {"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}
        assert tenant.post("/v1/chat/completions", json=body).status_code == 404
        found = admin.get("/admin/v1/refusals").json()["data"]
    assert ("model_not_found", 404, "acme") in [(each["code"], each["status"], each["tenant"]) for each in found]


def test_refusals_of_late_are_told_from_those_since_the_start(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, ADMIN) as admin:

        def found() -> dict[str, Any]:
            answer = admin.get("/admin/v1/refusals?minutes=5").json()
            assert answer["minutes"] == 5
            return {each["code"]: each for each in answer["data"] if each["tenant"] == "acme"}

        before = found().get("model_not_found", {"recent": 0, "count": 0})
        body = {"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}
        tenant.post("/v1/chat/completions", json=body)
        now = found()["model_not_found"]
        assert (now["recent"], now["count"]) == (before["recent"] + 1, before["count"] + 1)
        assert abs(now["latest_ms"] / 1000 - time.time()) < 120
        for minutes in (0, 61, "x"):
            assert admin.get(f"/admin/v1/refusals?minutes={minutes}").status_code == 400


def test_whose_key_is_no_admins_is_told_by_its_tenant(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, ADMIN) as admin:

        def forbidden() -> Counter[str]:
            found = admin.get("/admin/v1/refusals").json()["data"]
            return Counter({each["tenant"]: each["count"] for each in found if each["code"] == "forbidden"})

        before = forbidden()  # other tests' of the same gateway
        assert tenant.get("/admin/v1/refusals").status_code == 403
        assert forbidden() - before == {"acme": 1}


def test_what_was_refused_before_the_window_is_not_of_late() -> None:
    now = [7_200_000.0]
    metrics = PrometheusMetrics(clock=lambda: now[0])
    for minute in (0, 10, 10, 58):
        now[0] = 7_200_000.0 + 60 * minute
        metrics.turned_away(429, "rate_limit_exceeded", "acme")
    labels, rows = ("429", "rate_limit_exceeded", "acme"), metrics.own().counters["refusals_by_minute"]
    told = [recent(rows, now_s=now[0], minutes=minutes)[labels].count for minutes in (1, 48, 49, 60)]
    assert told == [1, 1, 3, 4]
    now[0] += 3600
    assert recent(rows, now_s=now[0], minutes=60) == {}
    metrics.turned_away(401, "invalid_api_key", "")
    assert len(metrics.own().counters["refusals_by_minute"]) == 1
    assert b"by_minute" not in metrics.text()


def test_refusals_of_many_kinds_within_an_hour_are_bounded() -> None:
    metrics = PrometheusMetrics(clock=lambda: 7_200_000.0)
    for number in range(MOST_REFUSALS + 10):
        metrics.turned_away(400, f"code_{number}", "acme")
    rows = metrics.own().counters["refusals_by_minute"]
    assert len(rows) <= MOST_REFUSALS + 1
    assert sum(rows.values()) == MOST_REFUSALS + 10


def test_settings_are_shown_without_secrets(gateway: Running) -> None:
    with client(gateway, ADMIN) as admin:
        for everything in ("false", "true"):
            text = admin.get(f"/admin/v1/settings?everything={everything}").text
            assert ADMIN not in text
            assert ACME not in text
            assert MASKED in text


def test_what_may_be_secret_is_masked_by_its_name_and_in_addresses() -> None:
    shown = masked(
        {
            "api_key": "sk-1",
            "headers": {"Authorization": "Bearer x"},
            "url": "https://user:pass@host:8000/v1",
            "urls": ["redis://:pass@host"],
            "max_tokens": 5,
            "model": "a@4bit",
        }
    )
    assert shown == {
        "api_key": MASKED,
        "headers": {"Authorization": MASKED},
        "url": "https://host:8000/v1",
        "urls": ["redis://host"],
        "max_tokens": 5,
        "model": "a@4bit",
    }


def test_a_budget_is_foretold_at_the_pace_of_its_period() -> None:
    half = DAY_S // 2
    assert forecast(balance(250, elapsed_s=half)).spent_at_reset_usd == pytest.approx(500e-9)
    soon = forecast(balance(800, elapsed_s=half))
    assert soon.exhausted_in_s == pytest.approx(half / 4)
    assert forecast(balance(1000, elapsed_s=half)).exhausted_in_s == 0.0


@pytest.mark.parametrize(
    "found", [balance(0, elapsed_s=9), balance(9, elapsed_s=60), balance(9, elapsed_s=9, calendar=None)]
)
def test_where_too_little_is_known_nothing_is_foretold(found: Balance) -> None:
    reported = forecast(found)
    assert (reported.exhausted_in_s, reported.spent_at_reset_usd) == (None, None)
    assert reported.says


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_shows_them_and_a_hostile_prompt_stays_text(
    browser: Browser, gateway: Running, width: int, scheme: str
) -> None:
    with client(gateway) as tenant:
        asked(tenant, f"Plural of {HOSTILE}?")
        assert tenant.post("/v1/chat/completions", json={"model": "nobody", "messages": []}).is_client_error
    with opened(browser, gateway, width=width, scheme=scheme) as page:
        page.click("nav a[href='#run']")
        page.wait_for_selector("text=Type an admin key")
        give_key(page, ADMIN)
        page.wait_for_selector("pre.settings-text")
        page.wait_for_selector("[aria-label=Budgets] td:has-text('tenant:acme')")
        large = page.locator("[aria-label='Models and widths'] tr", has_text="large").inner_text()
        assert large.split("\t")[-2:] == ["family", "3bit, 4bit, 6bit, 8bit"]
        assert HOSTILE in (page.locator("[aria-label='Latest decisions']").text_content() or "")
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for name in ("Engines", "Models and widths", "Budgets", "Refusals"):  # nothing of them is beside the window
            assert page.locator(f"[aria-label='{name}']").evaluate("e => e.scrollWidth - e.clientWidth") == 0, name
        assert "by its reset in" in page.inner_text("[aria-label=Budgets] td:last-child")
        refused = page.locator("[aria-label=Refusals] tr", has_text="model_not_found").first
        assert re.search(r"\d\d:\d\d$", refused.text_content() or "")
        page.select_option("#refused-in", "")
        assert refused.is_visible()


def test_a_tenants_key_is_told_that_it_is_no_admins(browser: Browser, gateway: Running) -> None:
    said: list[str] = []
    with opened(browser, gateway, said=said) as page:
        page.click("nav a[href='#run']")
        give_key(page)
        page.wait_for_selector("text=This needs an admin key")
        line = page.inner_text("main code")
        made = subprocess.run(
            [sys.executable, "-m", *line.split(), "--config", str(gateway.config)],
            capture_output=True,
            text=True,
            check=True,
        )
        give_key(page, re.findall(r"sk-\S+", made.stdout)[0])
        page.wait_for_selector("pre.settings-text")
        said.clear()  # the browser's own words about the status
