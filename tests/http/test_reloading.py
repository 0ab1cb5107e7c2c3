"""A settings file that breaks in ways nobody foresaw: the old settings stay, the log says so once, watching goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat, engine, serving, settings_for, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
NOT_TAKEN = "is not taken in, the old settings stay"


def wrote(data: bytes) -> Callable[[Path], None]:
    return lambda path: _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(data)
    fresh.replace(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    fresh = path.with_suffix(".tmp")
    with fresh.open("wb") as file:
        file.truncate(100 * 2**20)
    fresh.replace(path)


def _bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines).encode()


WAYS: dict[str, Callable[[Path], None]] = {
    "five thousand digits": wrote(b"server: {port: " + b"1" * 5000 + b"}"),
    "a number in base sixty that goes on and on": wrote(b"server: {port: 1" + b":1" * 200_000 + b"}"),
    "five thousand brackets": wrote(b"models: " + b"[" * 5000),
    "five thousand closed brackets": wrote(b"models: " + b"[" * 5000 + b"]" * 5000),
    "an alias bomb": wrote(_bomb()),
    "a list that holds itself": wrote(b"models: &a [*a]"),
    "a hundred megabytes": _huge,
    "a FIFO": _fifo,
    "a folder": _folder,
    "no UTF-8": wrote(b"server: {host: \xff\xfe}"),
    "no date": wrote(b"server: {host: 2026-99-99}"),
    "a NUL": wrote(b"server: {host: \x00}"),
    "a tag that makes objects": wrote(b"server: !!python/object/apply:os.system [exit 1]"),
    "a key that is a list": wrote(b"{[1, 2]: 3}"),
    "half a file": wrote(b"server: {port: "),
    "empty": wrote(b""),
    "nothing but comments": wrote(b"# nothing\n---\n"),
    "gone": lambda path: path.unlink(),
}


def mend(gateway: Running, settings: dict[str, Any]) -> None:
    if gateway.config.is_dir():
        gateway.config.rmdir()
    gateway.rewrite(settings)


async def status(gateway: Running, key: str) -> int:
    async with gateway.client() as client:
        headers = {"Authorization": f"Bearer {key}"}
        return (await client.post("/v1/chat/completions", json=chat(), headers=headers)).status_code


def settings_with(folder: Path, one: ScriptedServer, *tenants: str) -> dict[str, Any]:
    keys = {name: {"keys": [{"secret": f"sk-of-{name}"}]} for name in tenants}
    return settings_for(folder, {"one": one}, tenants=keys)


async def test_whatever_becomes_of_the_file_a_removed_tenants_key_ends_at_the_next_good_one(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_with(tmp_path, one, "kept", "removed")
        async with serving(tmp_path, settings) as gateway:
            for way, spoil in WAYS.items():
                assert await status(gateway, "sk-of-removed") == 200, way
                before = gateway.log.read_text().count(NOT_TAKEN)
                spoil(gateway.config)
                await until(lambda before=before: gateway.log.read_text().count(NOT_TAKEN) > before)
                await asyncio.sleep(0.3)  # three looks at the file
                assert gateway.log.read_text().count(NOT_TAKEN) == before + 1, way
                assert await status(gateway, "sk-of-removed") == 200, way
                mend(gateway, settings_with(tmp_path, one, "kept"))
                await until(lambda: _refused(gateway, "sk-of-removed"))
                assert await status(gateway, "sk-of-kept") == 200, way
                mend(gateway, settings)
                await until(lambda: _accepted(gateway, "sk-of-removed"))
            assert "Traceback" not in gateway.log.read_text()


async def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_with(tmp_path, one, "kept", "removed") | {"reload": {"every_s": 1.0}}
        async with serving(tmp_path, settings) as gateway:
            half = settings_with(tmp_path, one, "kept")
            gateway.config.write_text(yaml.safe_dump(half))
            for _ in range(30):
                await asyncio.sleep(0.1)
                with gateway.config.open("a") as file:
                    file.write("# and so on\n")
                assert await status(gateway, "sk-of-removed") == 200
            await until(lambda: _refused(gateway, "sk-of-removed"))


async def _refused(gateway: Running, key: str) -> bool:
    return await status(gateway, key) == 401


async def _accepted(gateway: Running, key: str) -> bool:
    return await status(gateway, key) == 200


async def test_requests_are_answered_while_a_large_file_is_read(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_with(tmp_path, one, "kept")
        async with serving(tmp_path, settings) as gateway:
            many = {f"t{i}": {"keys": [{"secret": f"sk-many-{i}"}]} for i in range(3000)}
            gateway.rewrite({**settings, "tenants": {**settings["tenants"], **many}})
            assert len(yaml.safe_dump(many)) < 2**20
            await until(lambda: _accepted(gateway, "sk-many-2999"), within_s=60)
            assert await status(gateway, "sk-of-kept") == 200


async def test_a_file_that_comes_back_with_its_old_time_is_read(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_with(tmp_path, one, "kept", "removed")
        async with serving(tmp_path, settings) as gateway:
            when = gateway.config.stat().st_mtime_ns
            fresh = gateway.config.with_suffix(".other")
            fresh.write_text(yaml.safe_dump(settings_with(tmp_path, one, "kept")))
            os.utime(fresh, ns=(when, when))
            fresh.replace(gateway.config)
            await until(lambda: _refused(gateway, "sk-of-removed"))


async def test_a_file_that_is_included_is_watched_and_so_is_one_that_was_broken_when_it_was_named(
    tmp_path: Path,
) -> None:
    def listed(*names: str) -> dict[str, Any]:
        url = f"{one.url}/v1"
        return {
            "model_list": [
                {"model_name": name, "litellm_params": {"model": "hosted_vllm/any", "api_base": url}} for name in names
            ]
        }

    async with engine() as one:
        more = tmp_path / "more.yaml"
        more.write_text(yaml.safe_dump(listed("second")))
        own = {"state_dir": str(tmp_path / "state"), "reload": {"every_s": 0.1}}
        settings = {**listed("first"), "include": ["more.yaml"], "pointsman": own, "state_dir": own["state_dir"]}
        async with serving(tmp_path, settings) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:

            async def known() -> list[str]:
                models = (await client.get("/v1/models")).json()["data"]
                return [each["id"] for each in models if not each["id"].startswith("auto")]

            async def are(*names: str) -> bool:
                return set(await known()) == set(names)

            assert await are("first", "second")
            more.write_text(yaml.safe_dump(listed("second", "third")))
            await until(lambda: are("first", "second", "third"))
            gateway.rewrite({**settings, "include": ["more.yaml", "new.yaml"]})
            await until(lambda: NOT_TAKEN in gateway.log.read_text())
            (tmp_path / "new.yaml").write_text(yaml.safe_dump(listed("fourth")))
            await until(lambda: are("first", "second", "third", "fourth"))
