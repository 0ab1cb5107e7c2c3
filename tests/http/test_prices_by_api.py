"""Prices by the admin API: at once, from a day on, for all gateways of a store, with who did it; the file's stay."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat, engine, serving, until
from tests.stores.conftest import RedisProcess

pytestmark = pytest.mark.anyio
ADMIN = {"Authorization": "Bearer sk-admin-of-prices"}
TODAY = dt.datetime.now(dt.UTC).date()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield {}
        return
    process = RedisProcess(tmp_path)
    process.start()
    yield {"store": {"redis": process.url}}
    process.kill()


def settings(folder: Path, found: ScriptedServer, **more: Any) -> dict[str, Any]:
    """An engine that tells of the model `any`, which only default_price prices, and `sold`, which the file does."""
    return {
        "state_dir": str(folder / "state"),
        "auth": {"admin_key": "sk-admin-of-prices"},
        "backends": {"engine": {"kind": "vllm", "url": found.url, "discover": True}},
        "models": [{"name": "sold", "upstream": "any-sold", "price": {"prompt": 1, "completion": 1}}],
        "programs": {"twice": {"kind": "vote", "of": "any", "n": 2}},
        "default_price": {"prompt": 1000, "completion": 1000},
        "reload": {"every_s": 0.1},
    } | more


async def cost_of(client: httpx.AsyncClient, model: str = "any") -> tuple[float, int, int]:
    answer = await client.post("/v1/chat/completions", json=chat() | {"model": model}, headers=ADMIN)
    assert answer.is_success, answer.text
    usage = answer.json()["usage"]
    return float(answer.headers["x-pointsman-cost-usd"]), usage["prompt_tokens"], usage["completion_tokens"]


async def prices(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    return {each["model"]: each for each in (await client.get("/admin/v1/prices", headers=ADMIN)).json()["data"]}


async def test_a_model_that_the_file_does_not_price_is_priced_at_once_and_it_is_in_the_audit_log(
    tmp_path: Path, store: dict[str, Any]
) -> None:
    async with engine(text="forty-two") as found, serving(tmp_path, settings(tmp_path, found, **store)) as gateway:
        async with gateway.client() as client:
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx((prompt + completion) * 1e-3)
            before = (await prices(client))["any"]
            body = {
                "prompt": "200",
                "completion": 300,
                "changes": [{"since": "2999-01-01", "prompt": 1, "completion": 1}],
            }
            put = (await client.put("/admin/v1/prices/any", json=body, headers=ADMIN)).json()
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx(prompt * 200e-6 + completion * 300e-6)
            deleted = (await client.delete("/admin/v1/prices/any", headers=ADMIN)).json()
            again = await client.delete("/admin/v1/prices/any", headers=ADMIN)
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx((prompt + completion) * 1e-3)
            audit = (await client.get("/admin/v1/audit?limit=1000", headers=ADMIN)).json()["data"]
    assert (before["source"], before["price"]) == ("list", {"prompt": "1000", "completion": "1000"})
    assert (put["source"], put["price"]) == ("api", {"prompt": "200", "completion": "300"})
    assert put["section"]["changes"][0]["since"] == "2999-01-01"
    assert (deleted["source"], again.status_code) == ("list", 404)
    noted = [(each["kind"], each["subject"], each["detail"]["by"]) for each in audit if each["subject"] == "any"]
    assert noted == [("price.put", "any", "admin"), ("price.deleted", "any", "admin")]


async def test_a_price_holds_from_its_day_on(tmp_path: Path) -> None:
    async with engine(text="forty-two") as found, serving(tmp_path, settings(tmp_path, found)) as gateway:
        async with gateway.client() as client:
            begun = {"since": str(TODAY - dt.timedelta(days=1)), "prompt": 7, "completion": 7}
            later = {"since": str(TODAY + dt.timedelta(days=2)), "prompt": 9, "completion": 9}
            body = {"prompt": 5, "completion": 5, "changes": [later, begun]}
            assert (await client.put("/admin/v1/prices/any", json=body, headers=ADMIN)).json()["price"]["prompt"] == "7"
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx((prompt + completion) * 7e-6)


async def test_prices_of_the_file_and_of_programs_are_read_only_and_what_is_no_price_is_refused(tmp_path: Path) -> None:
    async with engine(text="forty-two") as found, serving(tmp_path, settings(tmp_path, found)) as gateway:
        async with gateway.client() as client:
            body = {"prompt": 1, "completion": 1}

            async def put(name: str, said: Any = body, **more: Any) -> httpx.Response:
                return await client.put(f"/admin/v1/prices/{name}", json=said, **({"headers": ADMIN} | more))

            sold, twice, nobody = await put("sold"), await put("twice"), await put("nobody")
            wrong = [{"prompt": -1, "completion": 1}, {"prompt": 1}, {**body, "colour": 1}, {**body, "cached": "NaN"}]
            wrong += [{**body, "changes": [{**body, "since": "2999-01-01"}] * 2}]
            refused = [await put("any", each) for each in wrong]
            mine = await put("any", headers=gateway.headers)
            shown = await prices(client)
    assert (sold.status_code, twice.status_code, nobody.status_code) == (409, 409, 404)
    assert str(gateway.config) in sold.json()["error"]["message"]
    assert [each.status_code for each in refused] == [400] * len(wrong)
    assert [each.json()["error"]["param"] for each in refused[:4]] == ["prompt", "completion", "colour", "cached"]
    assert mine.status_code == 403
    assert {name: (each["source"], each["read_only"]) for name, each in shown.items()} == {
        "any": ("list", False),
        "sold": ("file", True),
        "twice": ("steps", True),
    }


async def test_a_model_that_nothing_else_prices_is_taken_in_once_the_api_prices_it(tmp_path: Path) -> None:
    async with engine(text="forty-two") as found:
        made = settings(tmp_path, found, programs={})
        async with serving(tmp_path, made) as gateway, gateway.client() as client:
            del made["default_price"]
            await client.put("/admin/v1/prices/any", json={"prompt": 3, "completion": 3}, headers=ADMIN)
            gateway.rewrite(made)
            await until(lambda: "settings reloaded" in gateway.log.read_text())
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx((prompt + completion) * 3e-6)


async def test_a_file_that_begins_to_price_such_a_model_is_not_taken_in_and_at_a_start_the_file_rules(
    tmp_path: Path,
) -> None:
    async with engine(text="forty-two") as found:
        made = settings(tmp_path, found)
        both = made | {"models": [*made["models"], {"name": "any", "price": {"prompt": 2, "completion": 2}}]}
        async with serving(tmp_path, made) as gateway, gateway.client() as client:
            await client.put("/admin/v1/prices/any", json={"prompt": 3, "completion": 3}, headers=ADMIN)
            gateway.rewrite(both)
            await until(lambda: "DELETE /admin/v1/prices/any first" in gateway.log.read_text())
        async with serving(tmp_path, both) as gateway, gateway.client() as client:
            usd, prompt, completion = await cost_of(client)
            assert usd == pytest.approx((prompt + completion) * 2e-6)


async def test_a_price_that_the_file_overrules_stands_in_no_reloads_way_and_can_be_deleted(tmp_path: Path) -> None:
    async with engine(text="forty-two") as found:
        made = settings(tmp_path, found)
        both = made | {"models": [*made["models"], {"name": "any", "price": {"prompt": 2, "completion": 2}}]}
        async with serving(tmp_path, made) as gateway, gateway.client() as client:
            await client.put("/admin/v1/prices/any", json={"prompt": 3, "completion": 3}, headers=ADMIN)
        async with serving(tmp_path, both) as gateway, gateway.client() as client:
            gateway.rewrite(both | {"preference": 0.9})
            await until(lambda: "not taken in" in (said := gateway.log.read_text()) or "reloaded" in said)
            assert "not taken in" not in gateway.log.read_text()
            deleted = await client.delete("/admin/v1/prices/any", headers=ADMIN)
            assert (deleted.status_code, deleted.json().get("source")) == (200, "file")
        async with serving(tmp_path, made) as gateway, gateway.client() as client:
            assert (await prices(client))["any"]["source"] == "list"


async def test_a_file_is_taken_in_as_soon_as_another_gateway_has_deleted_its_price(tmp_path: Path) -> None:
    """What a gateway last read of the store is seconds old, and a file that is refused is not read again."""
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    async with engine(text="forty-two") as found:
        shared = {"store": {"sqlite": str(tmp_path / "shared.db")}}
        made = settings(first, found) | shared
        async with serving(first, made) as here, serving(second, settings(second, found) | shared) as there:
            async with here.client() as client, there.client() as other:
                await other.put("/admin/v1/prices/any", json={"prompt": 3, "completion": 3}, headers=ADMIN)
                await until(lambda: _is_three(here))
                assert (await other.delete("/admin/v1/prices/any", headers=ADMIN)).is_success
                here.rewrite(
                    made | {"models": [*made["models"], {"name": "any", "price": {"prompt": 2, "completion": 2}}]}
                )
                await until(lambda: "not taken in" in (said := here.log.read_text()) or "reloaded" in said)
                assert "not taken in" not in here.log.read_text()
                usd, prompt, completion = await cost_of(client)
                assert usd == pytest.approx((prompt + completion) * 2e-6)


async def test_all_workers_and_a_later_start_know_it(tmp_path: Path) -> None:
    async with engine(text="forty-two") as found:
        made = settings(tmp_path, found)
        async with serving(tmp_path, made, "--workers", "2") as gateway:
            async with gateway.client() as client:
                await client.put("/admin/v1/prices/any", json={"prompt": 3, "completion": 3}, headers=ADMIN)

            async def known() -> bool:
                return all([await _is_three(gateway) for _ in range(12)])

            await until(known)
        async with serving(tmp_path, made) as gateway:
            assert await _is_three(gateway)


async def _is_three(gateway: Running) -> bool:
    async with gateway.client() as client:  # a connection of its own: perhaps of the other worker
        return bool((await prices(client))["any"]["price"]["prompt"] == "3")
