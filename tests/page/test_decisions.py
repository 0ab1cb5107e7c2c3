"""A decision that was made can be looked at afterwards, by the tenant whose it is and by nobody else."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.http.conftest import Running
from tests.page.conftest import ADMIN, client


def asked(tenant: httpx.Client, text: str = "What is 17 + 25?", **more: Any) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **more}
    found = tenant.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    return found


def decided(tenant: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """As logged; what an answer cost is there a moment later."""
    for _ in range(100):
        found: dict[str, Any] = tenant.get(f"/v1/decisions/{answer.headers['x-pointsman-decision-id']}").json()
        if "cost_usd" in found:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_decision_is_shown_as_it_was_made(gateway: Running) -> None:
    with client(gateway) as tenant:
        answer = asked(tenant, routing={"preference": 0.9})
        found = decided(tenant, answer)
        assert tenant.post("/v1/feedback", json={"decision_id": found["decision_id"], "thumbs": "up"}).is_success
        judged = decided(tenant, answer)["judgements"]
    assert found["model"] == answer.headers["x-pointsman-model"]
    assert found["preference"] == pytest.approx(0.9)
    assert found["cost_usd"] == pytest.approx(float(answer.headers["x-pointsman-cost-usd"]))
    assert [(each["score"], each["source"]) for each in judged] == [(1.0, "user")]
    chosen = next(each for each in found["candidates"] if each["model"] == found["model"])
    assert sum(each["probability"] for each in found["candidates"]) == pytest.approx(1.0)
    assert found["propensity"] == pytest.approx(chosen["probability"])
    for each in found["candidates"]:
        assert each["score"] == pytest.approx(each["quality"] - each["price"] * each["cost_usd"])


def test_a_request_that_named_its_model_has_one_candidate(gateway: Running) -> None:
    with client(gateway) as tenant:
        found = decided(tenant, asked(tenant, model="small@4bit"))
    assert (found["policy"], [each["model"] for each in found["candidates"]]) == ("pinned", ["small@4bit"])


def test_nobody_sees_anothers_decision_and_nobody_without_a_key(gateway: Running) -> None:
    with client(gateway) as tenant, client(gateway, ADMIN) as admin, client(gateway, "") as anyone:
        path = f"/v1/decisions/{asked(tenant).headers['x-pointsman-decision-id']}"
        assert tenant.get(path).status_code == 200
        assert admin.get(path).status_code == 404  # of another tenant
        assert anyone.get(path).status_code == 401
        missing = tenant.get("/v1/decisions/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def _usual(decision: dict[str, Any]) -> str:
    """The model that is drawn most often."""
    return str(max(decision["candidates"], key=lambda each: each["probability"])["model"])


@pytest.mark.parametrize("preference", [0.1, 0.5, 0.95])
def test_what_would_flip_it_is_told_and_a_preference_does_flip_it(gateway: Running, preference: float) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Convert 12 km to m."}]}
    with client(gateway, ADMIN) as tenant:  # without a budget, whose price would move with the preference
        routing = {"preference": preference, "policy": "neighbours"}
        found = tenant.post("/v1/route", json={**body, "routing": routing}).json()
        assert {each["kind"] for each in found["flips"]} >= {"preference", "price"}
        for each in found["flips"]:
            assert each["model"] != _usual(found)
            assert each["says"]
            if each["kind"] == "preference":
                moved = {**routing, "preference": each["value"]}
                assert _usual(tenant.post("/v1/route", json={**body, "routing": moved}).json()) == each["model"]
        pinned = tenant.post("/v1/route", json={**body, "model": "small@4bit"}).json()
    assert pinned["flips"] == []
