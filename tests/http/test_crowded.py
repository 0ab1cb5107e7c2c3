"""A gateway whose loop is behind lets new requests wait, goes on with what it has begun, and refuses in the end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio


async def test_a_gateway_that_is_always_behind_refuses_and_says_when_to_come_again(tmp_path: Path) -> None:
    late = {"lag": {"lag_s": 1e-9, "waiting": 1, "wait_s": 0.3}}  # few wake so exactly
    async with engine(text="Here.") as served:
        settings = settings_for(tmp_path, {"only": served}, server=late)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            refused: list[httpx.Response] = []

            async def one_is_refused() -> bool:
                found = await asyncio.gather(*(client.post("/v1/chat/completions", json=chat()) for _ in range(4)))
                refused.extend(each for each in found if each.status_code != 200)
                return bool(refused)

            await until(one_is_refused)
            for each in refused:
                assert (each.status_code, each.json()["error"]["code"]) == (503, "overloaded")
                assert each.headers["retry-after"] == "1"
            assert (await client.get("/v1/models")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'reason="overloaded"' in metrics


async def test_a_gateway_that_stood_still_ends_its_stream_and_serves_all_who_came_meanwhile(tmp_path: Path) -> None:
    async with engine(text="word " * 60, piece_delay_s=0.02) as served:
        settings = settings_for(tmp_path, {"only": served}, server={"lag": {"lag_s": 0.2}})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                gateway.signal(signal.SIGSTOP)
                others = [asyncio.create_task(client.post("/v1/chat/completions", json=chat())) for _ in range(20)]
                await asyncio.sleep(1.0)
                gateway.signal(signal.SIGCONT)
                assert "data: [DONE]" in [line async for line in lines]
            assert {(await each).status_code for each in others} == {200}
