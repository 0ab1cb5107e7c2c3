"""Two tenants and a hostile one: what each may see and move of the others' through the API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import Running, chat, engine, serving, settings_for, until
from tests.stores.conftest import RedisProcess

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
ALICE, BOB, MALLORY, ROOT = "sk-alice-alice", "sk-bob-bob-bob", "sk-mallory-mal", "sk-root-root-r"
TENANTS: dict[str, Any] = {
    "acme": {"keys": [{"secret": ALICE, "name": "alice"}, {"secret": BOB, "name": "bob"}]},
    "evil": {"keys": [{"secret": MALLORY, "name": "mallory"}]},
}


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The `store` section of each driver."""
    if request.param == "sqlite":
        yield {}
        return
    process = RedisProcess(tmp_path)
    process.start()
    yield {"store": {"redis": process.url}}
    process.kill()


@asynccontextmanager
async def gateway_of(folder: Path, **more: Any) -> AsyncIterator[Running]:
    base: dict[str, Any] = {"policy": {"name": "neighbours"}, "log": {"keep_text": True}, "tenants": TENANTS}
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(engine(text="fine"))
        settings = settings_for(folder, {"one": one}, **(base | more))
        yield await stack.enter_async_context(serving(folder, settings))


@asynccontextmanager
async def as_key(gateway: Running, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as client:
        yield client


async def asked(client: httpx.AsyncClient, text: str = "What is 17 + 25?", **headers: str) -> tuple[str, str]:
    """The decision id and the response id of an answered question."""
    answer = await client.post(CHAT, json=chat(text), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-decision-id"], str(answer.json()["id"])


async def judge(client: httpx.AsyncClient, decision_id: str, score: float, **more: Any) -> httpx.Response:
    return await client.post("/v1/feedback", json={"decision_id": decision_id, "score": score, **more})


async def test_neighbours_are_shown_within_the_tenant_only(tmp_path: Path, store: dict[str, Any]) -> None:
    async with (
        gateway_of(tmp_path, **store) as gateway,
        as_key(gateway, ALICE) as alice,
        as_key(gateway, BOB) as bob,
        as_key(gateway, MALLORY) as mallory,
    ):
        secret = "the merger with Initech is called Operation Swordfish"
        await judge(alice, (await asked(alice, secret))[0], 0.25)

        async def reported(client: httpx.AsyncClient) -> list[dict[str, Any]]:
            return list((await client.post("/v1/route", json=chat(secret))).json()["neighbours"])

        async def learned() -> bool:
            return bool(await reported(bob))

        await until(learned)
        assert [(each["text"], each["scores"]) for each in await reported(bob)] == [(secret, {"one": 0.25})]
        answer = (await mallory.post("/v1/route", json=chat(secret))).json()
        assert answer["neighbours"] == []
        assert "Swordfish" not in str(answer)
        assert "similarity" not in str(answer)
        await judge(mallory, (await asked(mallory, "something of my own"))[0], 1.0)

        async def shows_own() -> bool:
            return [each["text"] for each in await reported(mallory)] == ["something of my own"]

        await until(shows_own)


async def test_a_decision_that_is_only_explained_counts_as_a_request(tmp_path: Path, store: dict[str, Any]) -> None:
    tenants = {**TENANTS, "evil": {**TENANTS["evil"], "limits": {"requests_per_minute": 3}}}
    async with gateway_of(tmp_path, tenants=tenants, **store) as gateway, as_key(gateway, MALLORY) as mallory:
        statuses = [(await mallory.post("/v1/route", json=chat())).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = await mallory.post(CHAT, json=chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        async with as_key(gateway, ALICE) as alice:
            assert (await alice.post("/v1/route", json=chat())).status_code == 200


async def test_a_decision_that_is_only_explained_counts_its_tokens(tmp_path: Path) -> None:
    tenants = {**TENANTS, "evil": {**TENANTS["evil"], "limits": {"tokens_per_minute": 100}}}
    async with gateway_of(tmp_path, tenants=tenants) as gateway, as_key(gateway, MALLORY) as mallory:
        long = chat("word " * 40)  # 50 tokens of four bytes
        statuses = [(await mallory.post("/v1/route", json=long)).status_code for _ in range(3)]
        assert statuses[-1] == 429


async def test_another_tenants_decision_cannot_be_judged_nor_told_from_nobodys(
    tmp_path: Path, store: dict[str, Any]
) -> None:
    async with (
        gateway_of(tmp_path, **store) as gateway,
        as_key(gateway, ALICE) as alice,
        as_key(gateway, BOB) as bob,
        as_key(gateway, MALLORY) as mallory,
    ):
        decision_id, response_id = await asked(alice)
        assert (await judge(alice, decision_id, 1.0)).json()["recorded"]
        nobodys = re.sub("[0-9a-f]", "0", decision_id)
        for foreign, unknown in ((decision_id, nobodys), (response_id, "chatcmpl-none")):
            said = []
            for some_id in (foreign, unknown):
                for kind in ("decision_id", "response_id"):
                    body = {kind: some_id, "score": 0.0, "replace": True}
                    answer = await mallory.post("/v1/feedback", json=body)
                    assert answer.status_code == 404
                    said.append(answer.text.replace(some_id, "ID"))
            assert len(set(said)) == 1
        assert (await judge(bob, decision_id, 1.0)).json()["recorded"] is False  # the same tenant may know
        other_key = await judge(bob, decision_id, 0.0, replace=True)
        assert (other_key.status_code, other_key.json()["error"]["code"]) == (409, "conflict")
        assert (await judge(alice, decision_id, 0.5, replace=True)).json()["recorded"]


async def test_nobody_can_guess_a_decision_id(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as gateway, as_key(gateway, ALICE) as alice:
        ids = [(await asked(alice))[0] for _ in range(3)]
        tails = [re.fullmatch(r"dec-[0-9a-f]{12}([0-9a-f]{24,})", each) for each in ids]
        assert all(tails)
        assert len({tail.group(1)[:8] for tail in tails if tail}) == 3


@pytest.mark.parametrize("right", [True, False])
async def test_an_admin_judges_for_a_tenant_by_an_explicit_right_and_is_audited(tmp_path: Path, right: bool) -> None:
    given_right = {"auth": {"admin_key": ROOT}, "feedback": {"by_admins": right}}
    async with (
        gateway_of(tmp_path, **given_right) as gateway,
        as_key(gateway, ALICE) as alice,
        as_key(gateway, MALLORY) as mallory,
        as_key(gateway, ROOT) as root,
    ):
        decision_id, _ = await asked(alice)
        assert (await judge(mallory, decision_id, 0.0, tenant="acme")).status_code == 403
        assert (await judge(root, decision_id, 0.0)).status_code == 404  # an admin is no tenant's by itself
        given = await judge(root, decision_id, 0.5, tenant="acme")
        assert given.status_code == (200 if right else 403)
        entries = (await root.get("/admin/v1/audit")).json()["data"]
        noted = [(each["subject"], each["detail"]) for each in entries if each["kind"] == "feedback.by_admin"]
        assert noted == ([(decision_id, {"tenant": "acme", "by": "admin"})] if right else [])


async def test_feedback_has_limits_of_its_own_for_a_key_and_a_tenant(tmp_path: Path) -> None:
    rules = {"per_key": 5, "per_tenant": 8}
    async with (
        gateway_of(tmp_path, feedback=rules) as gateway,
        as_key(gateway, ALICE) as alice,
        as_key(gateway, BOB) as bob,
        as_key(gateway, MALLORY) as mallory,
    ):
        mine = [await judge(alice, "dec-nobody", 1.0) for _ in range(7)]
        assert [answer.status_code for answer in mine] == [404] * 5 + [429] * 2
        assert mine[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert int(mine[-1].headers["retry-after"]) >= 1
        assert [(await judge(bob, "dec-nobody", 1.0)).status_code for _ in range(4)] == [404] * 3 + [429]
        assert (await judge(mallory, "dec-nobody", 1.0)).status_code == 404


async def test_a_request_names_only_policies_the_operator_chose(tmp_path: Path) -> None:
    evil = {**TENANTS["evil"], "policy": "epsilon"}
    async with gateway_of(tmp_path, tenants={**TENANTS, "evil": evil}) as gateway, as_key(gateway, MALLORY) as mallory:
        for name in ("linucb", "thompson", "paced", "port-exact"):
            for path in (CHAT, "/v1/route"):
                refused = await mallory.post(path, json=chat(routing={"policy": name}))
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, "routing.policy")
                assert "it may name best, cheapest, epsilon, neighbours, random" in refused.json()["error"]["message"]
        for name in ("epsilon", "neighbours", "cheapest"):
            assert (await mallory.post(CHAT, json=chat(routing={"policy": name}))).status_code == 200


async def test_a_local_only_tenant_is_routed_without_the_embedder_outside(tmp_path: Path) -> None:
    local = {"acme": {**TENANTS["acme"], "local_only": True}, "evil": TENANTS["evil"]}
    async with engine(text="I embed nothing") as outside:
        embedder = {"kind": "openai", "url": outside.url, "model": "e", "dim": 8, "local": False}
        async with (
            gateway_of(tmp_path, tenants=local, embedder=embedder) as gateway,
            as_key(gateway, ALICE) as alice,
            as_key(gateway, MALLORY) as mallory,
        ):
            await asked(alice, "a secret of ours")
            assert (await alice.post("/v1/route", json=chat("a secret of ours"))).status_code == 200
            assert not outside.heard
            await asked(mallory, "nothing to hide")  # answered although the embedder fails
            assert "nothing to hide" in str([each.body for each in outside.heard])
            assert "the embedder failed" in gateway.log.read_text()


async def test_what_is_left_of_budgets_is_told_of_tenants_teams_and_keys_of_the_file_too(
    tmp_path: Path, store: dict[str, Any]
) -> None:
    team = {"research": {"budgets": ["2 USD per day"]}}
    key = {"secret": ALICE, "name": "alice", "team": "research", "budgets": ["1 USD per day"]}
    tenants = {"acme": {"budgets": ["3 USD per day"], "teams": team, "keys": [key]}}
    async with gateway_of(tmp_path, **store, tenants=tenants, auth={"admin_key": ROOT}) as gateway:
        async with as_key(gateway, ALICE) as alice, as_key(gateway, ROOT) as root:
            await asked(alice)
            lines = (await root.get("/admin/v1/spend")).json()["data"]
            for named, limit in (("tenant=acme", 3), ("team=research", 2), ("key=alice", 1)):
                answer = await root.get(f"/admin/v1/budgets?{named}")
                assert answer.status_code == 200, answer.text
                (left,) = answer.json()["data"]
                assert (left["limit_usd"], left["spent_usd"]) == (limit, lines[0]["cost_usd"])
                assert left["spent_usd"] > 0
            assert (await root.get("/admin/v1/budgets?tenant=nobody")).status_code == 404
