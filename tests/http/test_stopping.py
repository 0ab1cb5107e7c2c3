"""How a gateway stops, and how it ends what takes too long: told before, served meanwhile, and never in silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.http.conftest import Running, chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def is_ready(gateway: Running) -> bool:
    async with gateway.client() as client:
        return (await client.get("/ready")).status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_gateway_told_to_stop_is_not_ready_first_and_serves_on_meanwhile(tmp_path: Path, workers: int) -> None:
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one}, server={"grace_s": 3, "workers": workers})
        async with serving(tmp_path, settings) as gateway:
            async with gateway.client() as client:
                assert (await client.post(CHAT, json=chat())).status_code == 200
            gateway.signal(signal.SIGTERM)

            async def reported() -> bool:
                return not await is_ready(gateway)

            await until(reported)
            async with gateway.client() as client:
                answer = await client.post(CHAT, json=chat())
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
                assert "stopping" in (await client.get("/ready")).text
            await until(lambda: gateway.process.poll() is not None)


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one}, server={"grace_s": 600})) as gateway:
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert gateway.process.poll() is None
            gateway.signal(signal.SIGTERM)
            await until(lambda: gateway.process.poll() is not None)


async def test_what_is_cut_when_the_time_to_finish_is_over_is_told_and_charged(tmp_path: Path) -> None:
    async with engine(text="word " * 2000, piece_delay_s=0.02) as slow, engine(text="late", delay_s=60) as late:
        settings = settings_for(tmp_path, {"slow": slow, "late": late}, server={"drain_s": 0.5})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            streaming = asyncio.ensure_future(client.post(CHAT, json=chat(model="slow", stream=True)))
            waiting = asyncio.ensure_future(client.post(CHAT, json=chat(model="late")))
            await asyncio.wait_for(slow.hearing.wait(), 10)
            await asyncio.wait_for(late.hearing.wait(), 10)
            await asyncio.sleep(0.3)
            gateway.signal(signal.SIGTERM)
            stream, plain = await asyncio.gather(streaming, waiting)
            assert "the gateway stops" in events(stream.text)[-1]["error"]["message"]
            assert plain.status_code == 503
            assert plain.json()["error"]["code"] == "stopping"
            assert slow.hung_up.is_set()
            assert late.hung_up.is_set()
            await until(lambda: gateway.process.poll() is not None)
            assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


async def test_no_request_is_served_longer_than_the_longest(tmp_path: Path) -> None:
    async with engine(text="word " * 2000, piece_delay_s=0.02) as slow, engine(text="late", delay_s=60) as late:
        settings = settings_for(tmp_path, {"slow": slow, "late": late}, server={"longest_s": 1})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            plain, stream = await asyncio.gather(
                client.post(CHAT, json=chat(model="late")), client.post(CHAT, json=chat(model="slow", stream=True))
            )
            assert (plain.status_code, plain.json()["error"]["code"]) == (504, "too_slow")
            assert "longer than 1 s" in events(stream.text)[-1]["error"]["message"]
            assert "word" in stream.text
            await asyncio.wait_for(asyncio.gather(slow.hung_up.wait(), late.hung_up.wait()), 5)

            async def settled() -> bool:
                return "pointsman_holds 0.0" in (await client.get("/metrics")).text

            await until(settled)


async def test_nor_is_a_program_whose_first_steps_have_cost_something(tmp_path: Path) -> None:
    async with engine(text="a draft") as one, engine(text="late", delay_s=60) as late:
        settings = settings_for(tmp_path, {"one": one, "late": late}, server={"longest_s": 1})
        settings["programs"] = {"draft": {"kind": "refine", "draft": "one", "critic": "late"}}
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            plain, stream = await asyncio.gather(
                client.post(CHAT, json=chat(model="draft")), client.post(CHAT, json=chat(model="draft", stream=True))
            )
            assert (plain.status_code, plain.json()["error"]["code"]) == (504, "too_slow"), plain.text
            assert "longer than 1 s" in events(stream.text)[-1]["error"]["message"]

            async def settled() -> bool:
                return "pointsman_holds 0.0" in (await client.get("/metrics")).text

            await until(settled)
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("limit", [{"stalled_s": 1}, {"longest_s": 1}])
async def test_a_client_that_does_not_read_is_cut_off_and_so_is_the_engine(
    tmp_path: Path, version: str, limit: dict[str, float]
) -> None:
    async with engine(text="word " * 200_000) as fast:
        settings = settings_for(tmp_path, {"fast": fast}, server=limit)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            place = urlsplit(gateway.url)
            with socket.socket() as lazy:
                lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await asyncio.to_thread(lazy.connect, (place.hostname, place.port))
                body = json.dumps(chat(model="fast", stream=True)).encode()
                head = f"POST {CHAT} HTTP/{version}\r\nHost: g\r\nAuthorization: Bearer {gateway.key}\r\n"
                lazy.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

                async def settled() -> bool:
                    return 'pointsman_answers_total{model="fast"' in (await client.get("/metrics")).text

                await until(settled)
                lazy.settimeout(10)
                with contextlib.suppress(ConnectionResetError):
                    while await asyncio.to_thread(lazy.recv, 1 << 20):
                        pass
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


async def test_a_client_that_reads_slowly_but_reads_has_the_whole_answer(tmp_path: Path) -> None:
    async with engine(text="word " * 20_000) as fast:
        settings = settings_for(tmp_path, {"fast": fast}, server={"stalled_s": 2})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            async with client.stream("POST", CHAT, json=chat(stream=True)) as stream:
                got = b""
                async for chunk in stream.aiter_bytes(200_000):
                    got += chunk
                    await asyncio.sleep(0.2)
    assert got.endswith(b"data: [DONE]\n\n")


async def test_hang_ups_while_a_body_is_refused_leave_no_trace(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one})) as gateway:
            place = urlsplit(gateway.url)
            for head in (b"POST /v1/feedback HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n", b"GET / HT"):
                with socket.create_connection((place.hostname, place.port)) as leaving:
                    leaving.sendall(head + b"content-length: 1000\r\n\r\nx")
            async with gateway.client() as client:
                assert (await client.post(CHAT, json=chat())).status_code == 200
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


async def test_a_stop_with_open_idle_connections_does_not_wait_for_them(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        async with serving(tmp_path, settings_for(tmp_path, {"one": one}, server={"idle_s": 600})) as gateway:
            place = urlsplit(gateway.url)
            with contextlib.ExitStack() as stack:
                idle = [stack.enter_context(socket.create_connection((place.hostname, place.port))) for _ in range(20)]
                idle[0].sendall(b"GET /health HT")
                async with httpx.AsyncClient(base_url=gateway.url) as client:
                    await client.get("/health")
                    gateway.signal(signal.SIGTERM)
                    await until(lambda: gateway.process.poll() is not None)


@pytest.mark.parametrize("first", [True, False])
async def test_a_request_that_came_while_the_gateway_stood_still_is_answered(tmp_path: Path, *, first: bool) -> None:
    """Its connection has been idle too long by then, but the request was in time."""
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one}, server={"idle_s": 4})
        async with serving(tmp_path, settings) as gateway:
            place = urlsplit(gateway.url)
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            if not first:
                writer.write(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}")
            await asyncio.sleep(0.2)
            gateway.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(0.2)
                writer.write(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
                await asyncio.sleep(6)
            finally:
                gateway.signal(signal.SIGCONT)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            writer.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_may_take_longer_than_a_connection_may_be_idle(tmp_path: Path, version: str) -> None:
    """HTTP/1.0 is what nginx speaks to what is behind it, if nobody says otherwise."""
    async with engine(text="fine", delay_s=2) as slow:
        async with serving(tmp_path, settings_for(tmp_path, {"slow": slow}, server={"idle_s": 1})) as gateway:
            place = urlsplit(gateway.url)
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            body = json.dumps(chat()).encode()
            head = (
                f"POST {CHAT} HTTP/{version}\r\nHost: g\r\nConnection: close\r\nAuthorization: Bearer {gateway.key}\r\n"
            )
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            got = await reader.read()
            writer.close()
            assert b"fine" in got, got


async def test_a_connection_that_is_asked_on_while_the_gateway_stops_does_not_rest_afterwards(tmp_path: Path) -> None:
    """Else the drain waits for a client that has no reason to close."""
    async with engine(text="slow", delay_s=1) as slow:
        async with serving(tmp_path, settings_for(tmp_path, {"slow": slow}, server={"idle_s": 600})) as gateway:
            async with gateway.client() as client:
                asking = asyncio.ensure_future(client.post(CHAT, json=chat()))
                await asyncio.sleep(0.5)
                gateway.signal(signal.SIGTERM)
                assert (await asking).status_code == 200
                await until(lambda: gateway.process.poll() is not None, within_s=10)
