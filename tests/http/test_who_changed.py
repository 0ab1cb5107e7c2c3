"""The audit log says who changed keys and settings, by whatever way they were changed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import engine, serving, settings_for, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
OLD, NEW = "sk-admin-of-before-0001", "sk-admin-of-after-00002"


async def audit(url: str, key: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        answer = await client.get("/admin/v1/audit")
        return answer.json()["data"] if answer.status_code == 200 else []


async def verb(config: Path, *words: str) -> str:
    command = [sys.executable, "-m", "pointsman", *words, "--config", str(config)]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    assert done.returncode == 0
    return said.decode()


async def test_keys_made_rotated_and_disabled_by_the_command_line_are_in_the_audit_log(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_for(tmp_path, {"one": one}, auth={"admin_key": OLD})
        async with serving(tmp_path, settings) as gateway:
            made = (await verb(gateway.config, "keys", "create", "acme", "--name", "ci")).split()[0]
            await verb(gateway.config, "keys", "rotate", made, "--grace", "1h")
            await verb(gateway.config, "keys", "disable", made)
            await verb(gateway.config, "keys", "enable", made)
            found = [each for each in await audit(gateway.url, OLD) if each["subject"] == made]
            assert [each["kind"] for each in found] == ["key.created", "key.rotated", "key.disabled", "key.enabled"]
            assert all(each["detail"]["by"].startswith("command line of ") for each in found)
            assert found[1]["detail"]["grace_s"] == 3600


async def test_an_admin_key_is_replaced_in_the_file_while_the_gateway_runs_and_the_audit_log_has_it(
    tmp_path: Path,
) -> None:
    async with engine() as one:
        settings = settings_for(tmp_path, {"one": one}, auth={"admin_key": OLD})
        async with serving(tmp_path, settings) as gateway:
            assert await audit(gateway.url, NEW) == []
            gateway.rewrite({**settings, "server": {"grace_s": 0}, "auth": {"admin_key": NEW}})

            async def is_noted() -> bool:
                return any(each["kind"] == "settings.reloaded" for each in await audit(gateway.url, NEW))

            await until(is_noted, within_s=120)
            noted = [each for each in await audit(gateway.url, NEW) if each["kind"] == "settings.reloaded"]
            assert noted[-1]["detail"] == {"live": ["auth"], "by": "file"}
            assert await audit(gateway.url, OLD) == []
            said = gateway.log.read_text() + str(noted)
            assert OLD not in said
            assert NEW not in said
