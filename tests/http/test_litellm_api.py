"""LiteLLM's management routes, asked by its own client classes and by raw HTTP."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, serving

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
proxy = pytest.importorskip("litellm.proxy.client")
pytestmark = pytest.mark.filterwarnings("ignore")  # litellm and pydantic warn of each other
MASTER = "sk-master-1234"
MANY = {"max_budget": 2.5, "budget_duration": "7d", "tpm_limit": 900_000, "rpm_limit": 50, "max_parallel_requests": 4}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("litellm")
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(always(Line(text="one two three")))) as engine:
            cost = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_input_tokens": 4000}
            entries = [
                {
                    "model_name": name,
                    "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": f"{engine.url}/v1"},
                    "model_info": cost,
                }
                for name in ("small", "large")
            ]
            settings = {
                "state_dir": str(folder / "state"),
                "model_list": entries,
                "general_settings": {"master_key": MASTER},
                "pointsman": {"state_dir": str(folder / "state"), "policy": {"name": "cheapest"}},
            }
            with portal.wrap_async_context_manager(serving(folder, settings)) as running:
                yield running


@pytest.fixture
def client(gateway: Running) -> Any:
    return proxy.Client(base_url=gateway.url, api_key=MASTER)


@pytest.fixture
def http(gateway: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {MASTER}"}, timeout=30) as http:
        yield http


def chat(gateway: Running, key: str, model: str = "small") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{gateway.url}/chat/completions", json=body, headers=headers, timeout=30)


def made(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/key/generate", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_its_client_makes_looks_up_lists_and_deletes_a_key(gateway: Running, client: Any) -> None:
    key: Any = client.keys.generate(models=["small"], duration="1h", key_alias="by-client", user_id="u1")
    assert key["token"] == hashlib.sha256(key["key"].encode()).hexdigest()
    assert (key["models"], key["key_alias"], key["user_id"], key["spend"]) == (["small"], "by-client", "u1", 0.0)
    assert key["expires"].startswith("20")
    assert chat(gateway, key["key"]).status_code == 200
    assert chat(gateway, key["key"], "large").status_code in (400, 403)
    info: Any = client.keys.info(key["key"])
    assert info["key"] == key["key"]
    assert info["info"]["models"] == ["small"]
    assert info["info"]["spend"] > 0
    assert key["token"] in client.keys.list(size=100)["keys"]
    assert client.keys.delete(keys=[key["key"]]) == {"deleted_keys": [key["key"]]}
    assert chat(gateway, key["key"]).status_code == 401
    assert client.keys.info(key["token"])["info"]["status"] == "deleted"
    assert key["token"] not in client.keys.list(size=100)["keys"]


def test_its_client_reads_the_models(client: Any) -> None:
    models: Any = {each["model_name"]: each for each in client.models.info()}
    assert models.keys() == {"small", "large"}
    info = models["small"]["model_info"]
    assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (1e-6, 2e-6)
    assert (info["max_input_tokens"], info["mode"], info["id"]) == (4000, "chat", "small")
    assert client.models.get(model_name="large")["litellm_params"]["model"] == "large"
    groups: Any = client.model_groups.info()
    assert {each["model_group"] for each in groups} == {"small", "large"}


def test_its_client_hears_401_as_it_expects(gateway: Running) -> None:
    with pytest.raises(proxy.exceptions.UnauthorizedError):
        proxy.Client(base_url=gateway.url, api_key="sk-wrong").keys.list()


def test_budgets_limits_and_metadata_are_what_was_asked_for_and_hold(gateway: Running, http: httpx.Client) -> None:
    key = made(http, **MANY, metadata={"cost_center": 7}, team_id=None)
    info = http.get("/key/info", params={"key": key["key"]}).json()["info"]
    for shown in (key, info):
        assert {name: shown[name] for name in MANY} == MANY
        assert shown["metadata"] == {"cost_center": "7"}
    poor = made(http, max_budget=0.00000001)
    assert poor["budget_duration"] is None
    refused = chat(gateway, poor["key"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_an_update_changes_what_it_names_and_drops_no_other_limit(gateway: Running, http: httpx.Client) -> None:
    windows = [{"budget_duration": "1h", "max_budget": 1}, {"budget_duration": "30d", "max_budget": 9}]
    key = made(http, budget_limits=windows, model_max_budget={"large": 3}, rpm_limit=7, model_rpm_limit={"small": 2})
    before = http.get("/key/info", params={"key": key["key"]}).json()["info"]
    answer = http.post("/key/update", json={"key": key["key"], "models": ["large"], "key_alias": "renamed"})
    assert answer.json()["models"] == ["large"]
    after = http.get("/key/info", params={"key": key["token"]}).json()["info"]
    assert after == {**before, "models": ["large"], "key_alias": "renamed"}
    http.post("/key/update", json={"key": key["key"], "rpm_limit": 8})
    latest = http.get("/key/info", params={"key": key["token"]}).json()["info"]
    assert latest == {**after, "rpm_limit": 8}
    http.post("/key/update", json={"key": key["key"], "blocked": True})
    assert chat(gateway, key["key"], "large").status_code == 401
    http.post("/key/update", json={"key": key["key"], "blocked": False})
    assert chat(gateway, key["key"], "large").status_code == 200


def test_the_terms_that_litellm_has_no_word_for_outlive_an_update(http: httpx.Client) -> None:
    body = {"tenant": "default", "preference": 0.9, "local_only": True, "budgets": ["1 USD per day", "2 USD per 30d"]}
    key = http.post("/admin/v1/keys", json=body).json()
    assert http.post("/key/update", json={"key": key["secret"], "max_budget": 5}).status_code == 200
    terms = http.get(f"/admin/v1/keys/{key['id']}").json()["terms"]
    assert (terms["preference"], terms["local_only"]) == (0.9, True)
    assert [str(each["limit"]) for each in terms["budgets"]] == ["5", "2"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tpd_limit": 5}, "tpd_limit"),
        ({"budget_id": "b"}, "budget_id"),
        ({"max_budget": "lots"}, "budgets"),
        ({"max_budget": -1}, "budgets"),
        ({"max_budget": 1, "budget_duration": "often"}, "max_budget"),
        ({"duration": "soon"}, "duration"),
        ({"key": "no-prefix"}, "key"),
        ({"metadata": [1]}, "metadata"),
        ({"model_max_budget": {"small": {"limit": 1}}}, "model_max_budget"),
        ({"budget_limits": "{"}, ""),
        ({"models": ["a b"]}, "allowed_models"),
    ],
)
def test_a_limit_that_cannot_be_kept_or_read_makes_no_key(http: httpx.Client, body: Any, param: str) -> None:
    before = http.get("/key/list").json()["total_count"]
    answer = http.post("/key/generate", json=body)
    assert answer.status_code == 400, answer.text
    assert str(answer.json()["error"]["param"] or "").startswith(param)
    assert http.get("/key/list").json()["total_count"] == before


def test_a_key_may_be_chosen_once(gateway: Running, http: httpx.Client) -> None:
    assert made(http, key="sk-my-own-key-1")["key"] == "sk-my-own-key-1"
    assert chat(gateway, "sk-my-own-key-1").status_code == 200
    assert http.post("/key/generate", json={"key": "sk-my-own-key-1", "max_budget": 0}).status_code == 409


def test_an_ordinary_key_sees_itself_and_changes_nothing(gateway: Running, http: httpx.Client) -> None:
    mine, other = made(http)["key"], made(http)["key"]
    headers = {"authorization": f"Bearer {mine}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30) as own:
        assert own.get("/key/info").json()["info"]["status"] == "active"
        assert own.get("/key/info", params={"key": other}).status_code == 404
        for method, path in (("POST", "/key/generate"), ("POST", "/key/update"), ("POST", "/key/delete")):
            assert own.request(method, path, json={"key": other}).status_code == 403
        assert own.get("/spend/logs").status_code == own.get("/key/list").status_code == 403
        assert own.get("/v1/model/info").status_code == 200
    assert httpx.get(f"{gateway.url}/model/info").status_code == 401


def test_spend_is_reported_by_day_and_by_key_and_model(gateway: Running, http: httpx.Client) -> None:
    key = made(http, user_id="spender")
    answers = [chat(gateway, key["key"]) for _ in range(3)]
    cost = sum(float(each.headers["x-pointsman-cost-usd"]) for each in answers)
    (row,) = http.get("/spend/logs", params={"api_key": key["key"]}).json()
    assert (row["api_key"], row["model"], row["user"], row["metadata"]) == (
        key["token"],
        "small",
        "spender",
        {"requests": 3},
    )
    assert row["spend"] == pytest.approx(cost)
    day = row["startTime"]
    dates = {"start_date": day, "end_date": day, "user_id": "spender"}
    (total,) = http.get("/spend/logs", params=dates).json()
    assert total["users"] == {"spender": pytest.approx(cost)}
    assert total["models"] == {"small": pytest.approx(cost)}


def test_each_request_has_a_row_of_its_own_where_it_is_asked_for(gateway: Running, http: httpx.Client) -> None:
    key = made(http, user_id="one-by-one")
    answers = {each.headers["x-pointsman-decision-id"]: each for each in (chat(gateway, key["key"]) for _ in range(3))}
    rows = {each["request_id"]: each for each in http.get("/spend/logs?summarize=false&user_id=one-by-one").json()}
    assert set(rows) == set(answers)
    for decision_id, answer in answers.items():
        row, usage = rows[decision_id], answer.json()["usage"]
        assert (row["api_key"], row["user"], row["model"]) == (key["token"], "one-by-one", "small")
        assert row["spend"] == pytest.approx(float(answer.headers["x-pointsman-cost-usd"]))
        assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert row["startTime"] <= row["endTime"]
        assert http.get("/spend/logs", params={"request_id": decision_id}).json() == [row]
    assert http.get("/spend/logs?summarize=false&end_date=2001-01-01").json() == []
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key['key']}"}) as own:
        assert own.get("/spend/logs?summarize=false").status_code == 403


def test_health_is_told_without_a_key(gateway: Running) -> None:
    for path in ("liveliness", "liveness", "readiness"):
        assert httpx.get(f"{gateway.url}/health/{path}").status_code == 200
    assert httpx.get(f"{gateway.url}/health/liveliness").json() == "I'm alive!"
    ready = httpx.get(f"{gateway.url}/health/readiness").json()
    assert (ready["status"], ready["db"]) == ("healthy", "connected")


def test_a_crowd_makes_as_many_keys_as_it_asks_for(http: httpx.Client) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(made(http)["key"])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16
