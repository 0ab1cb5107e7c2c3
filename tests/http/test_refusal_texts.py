"""What somebody reads who is refused: equal reasons once, money in the unit in which it differs, never a page of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import gateway_over

MODELS = 500
NAMES = [f"org/{'very-long-name-of-a-model-' * 3}{number:03}" for number in range(MODELS)]
KEY = "sk-acme-0123456789"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Five hundred models at one engine, each with a price of its own."""
    folder = tmp_path_factory.mktemp("refusals")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = [
            {
                "name": name,
                "backend": "one",
                "context_tokens": 4000,
                "price": {"prompt": round(1 + n / 1000, 3), "completion": 1},
            }
            for n, name in enumerate(NAMES)
        ]
        backends = {"one": {"kind": "vllm", "url": engine.url}}
        tenants = {"acme": {"keys": [{"secret": KEY}], "budgets": ["0.000000005 USD per day"]}}
        common = {"state_dir": str(folder / "state"), "policy": {"name": "cheapest"}}
        return {**common, "backends": backends, "models": made, "tenants": tenants}

    with gateway_over(folder, always(Line(text="fine")), settings) as (running, _):
        yield running


def refused(gateway: Running, content: str = "hello", **body: Any) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=chat(content, **body), headers=headers, timeout=60)
    return answer.status_code, answer.json()["error"]["message"]


def test_a_reason_of_all_models_is_told_once(gateway: Running) -> None:
    status, text = refused(gateway, "word " * 20_000)
    assert status == 400
    assert text.count("the context holds 4000") == 1
    assert f"and {MODELS - 6} more: " in text


def test_reasons_that_differ_in_their_amounts_are_not_a_page(gateway: Running) -> None:
    status, text = refused(gateway, routing={"max_cost_usd": 0.000_000_002})
    assert status == 400
    assert len(text) < 4000, len(text)
    assert "over the request's max_cost_usd of 0.000000002 USD" in text
    assert "and 494 more" in text


def test_money_is_told_to_the_last_nano_where_that_is_what_is_missing(gateway: Running) -> None:
    status, text = refused(gateway, model=NAMES[0], max_tokens=1)
    assert status == 429
    assert "The budget of tenant:acme is 0.000000005 USD; 0 USD is spent or held" in text
    assert "may cost 0.00" in text
