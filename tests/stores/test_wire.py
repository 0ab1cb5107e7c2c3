"""The pipeline to Redis: who asks gets an answer or StoreUnavailable, in time, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import tomllib
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from redis import asyncio as aioredis

from router.errors import StoreUnavailable
from router.stores.open import open_stores
from router.stores.redis.wire import Wire
from tests.stores.conftest import Clock, RedisProcess, free_port
from tests.stores.making import budget, buy, principal, spent_and_held

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Transports are taken over from redis-py: both loops must allow that."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def wire_to(url: str, timeout_s: float = 2.0) -> Wire:
    return Wire(aioredis.ConnectionPool.from_url(url), timeout_s=timeout_s)


async def test_redis_py_still_keeps_the_opened_transport_where_the_wire_takes_it_from(redis: RedisProcess) -> None:
    """A private member: pyproject.toml bounds the versions that were tried. Where this fails, look at Line first."""
    wire = wire_to(redis.url)
    await wire.ask(("PING",))
    line = wire._line
    assert line is not None
    assert isinstance(line._connection._writer, asyncio.StreamWriter)
    assert line._connection._writer.transport is line._transport
    await wire.aclose()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    bound = Requirement(next(each for each in project["dependencies"] if each.startswith("redis")))
    assert any(each.operator == "<" for each in bound.specifier)
    assert bound.specifier.contains(version("redis"))


async def test_answers_come_to_those_who_asked(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    found = await asyncio.gather(*(wire.ask(("ECHO", f"word {i}")) for i in range(500)))
    assert found == [f"word {i}".encode() for i in range(500)]
    await wire.aclose()


async def test_an_answer_larger_than_one_read_comes_whole(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    big = b"x" * 3_000_000
    answers = await asyncio.gather(wire.ask(("ECHO", big)), wire.ask(("ECHO", b"next")))
    assert list(answers) == [big, b"next"]
    await wire.aclose()


async def test_who_has_gone_takes_nobody_elses_answer(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    await wire.ask(("PING",))
    gone, stays = wire.ask(("ECHO", "gone")), wire.ask(("ECHO", "stays"))
    gone.cancel()
    assert await stays == b"stays"
    await wire.aclose()


async def test_an_error_of_one_command_is_its_own_only(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    wrong, right = await asyncio.gather(wire.ask(("NONSENSE",)), wire.ask(("ECHO", "right")))
    assert isinstance(wrong, Exception)
    assert right == b"right"
    await wire.aclose()


async def test_a_killed_redis_fails_what_was_asked_and_the_next_question_finds_the_new_one(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    await wire.ask(("SET", "a", "b"))
    pending = wire.ask(("BLPOP", "nothing", 0))
    await asyncio.sleep(0)  # it is written
    redis.kill()
    with pytest.raises(StoreUnavailable):
        await pending
    with pytest.raises(StoreUnavailable):
        await wire.ask(("PING",))
    redis.start()
    assert await wire.ask(("PING",)) == b"PONG"
    await wire.aclose()


async def test_a_redis_that_hangs_is_away_after_the_timeout_and_its_late_answer_is_nobodys(
    redis: RedisProcess,
) -> None:
    wire = wire_to(redis.url, timeout_s=0.2)
    await wire.ask(("PING",))
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    try:
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await wire.ask(("ECHO", "late"))
        assert asyncio.get_running_loop().time() - began < 2
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    assert await wire.ask(("ECHO", "new")) == b"new"
    await wire.aclose()


async def test_a_closed_wire_leaves_nobody_waiting(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    await wire.ask(("PING",))
    written, unwritten = wire.ask(("BLPOP", "nothing", 0)), None
    await asyncio.sleep(0)
    unwritten = wire.ask(("PING",))
    await wire.aclose()
    for asked in (written, unwritten):
        with pytest.raises(StoreUnavailable):
            await asked


async def test_a_connection_that_leads_to_a_replica_is_given_up(redis: RedisProcess) -> None:
    wire = wire_to(redis.url)
    before = await wire.ask(("CLIENT", "ID"))
    redis.ask(f"REPLICAOF 127.0.0.1 {free_port()}")
    assert str(await wire.ask(("SET", "a", "b"))).startswith("READONLY")
    redis.ask("REPLICAOF NO ONE")
    assert await wire.ask(("CLIENT", "ID")) != before
    await wire.aclose()


async def test_password_and_database_of_the_address_are_used(tmp_path: Path, clock: Clock) -> None:
    process = RedisProcess(tmp_path)
    process.start()
    try:
        process.ask("CONFIG SET requirepass hush")
        b = budget(100)
        async with open_stores(f"unix://:hush@{process.socket}?db=3", clock=clock) as stores:
            await buy(stores, principal(b), 40, now_ms=clock())
            assert await spent_and_held(stores, b, clock()) == (40, 0)
        async with aioredis.Redis(unix_socket_path=str(process.socket), password="hush", db=3) as third:
            assert await third.dbsize() > 0
        for wrong in (f"unix://{process.socket}?db=3", f"unix://:loud@{process.socket}?db=3"):
            with pytest.raises(StoreUnavailable):
                async with open_stores(wrong, clock=clock):
                    pass
    finally:
        process.kill()


async def test_scripts_are_loaded_again_where_redis_has_forgotten_them(redis: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(redis.url, clock=clock) as stores:
        await buy(stores, principal(b), 40, now_ms=clock())
        assert redis.ask("SCRIPT FLUSH").startswith(b"+OK")
        await buy(stores, principal(b), 40, now_ms=clock())
        assert await spent_and_held(stores, b, clock()) == (80, 0)


async def relay(there: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything between a client and a unix socket, both ways, until either ends."""
    from_redis, to_redis = await asyncio.open_unix_connection(there)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
        target.close()

    with contextlib.suppress(OSError):
        await asyncio.gather(pump(reader, to_redis), pump(from_redis, writer))


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that only itself vouches for, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_the_wire_is_encrypted_where_the_address_says_so(tmp_path: Path, clock: Clock) -> None:
    process = RedisProcess(tmp_path)
    process.start()
    certificate, key = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(partial(relay, process.socket), "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        b = budget(100)
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificate}&timeout_s=20"
        async with open_stores(url, clock=clock) as stores:
            await buy(stores, principal(b), 40, now_ms=clock())
            assert await spent_and_held(stores, b, clock()) == (40, 0)
        with pytest.raises(StoreUnavailable):  # nobody vouches for that certificate
            async with open_stores(f"rediss://localhost:{port}", clock=clock):
                pass
    finally:
        server.close()
        process.kill()
