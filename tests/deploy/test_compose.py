"""compose.yaml: valid, two profiles, and nothing that starts before what it needs answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LINTER = ROOT / ".cache/node/node_modules/.bin/dclint"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    with (ROOT / "compose.yaml").open() as file:
        return dict(yaml.safe_load(file)["services"])


def compose() -> list[str] | None:
    """The command that is Docker's compose here, plugin or not."""
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_docker_compose_accepts_it_in_both_profiles(profile: str) -> None:
    command = compose()
    if command is None:
        pytest.skip("neither the compose plugin nor docker-compose is installed")
    config = [*command, "-f", "compose.yaml", "--profile", profile, "config", "--quiet"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSE")}
    done = subprocess.run(config, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_compose_schema_accepts_it() -> None:
    if not LINTER.exists():
        pytest.skip("dclint is not installed (.ci/run installs it from npm where Docker's compose is missing)")
    command = [str(LINTER), "--formatter", "json", "--max-warnings", "1000", "compose.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [each["errorCount"] for each in json.loads(done.stdout)] == [0], done.stdout


def test_without_a_gpu_the_gateway_and_redis_start_and_no_engine(services: dict[str, dict[str, Any]]) -> None:
    started = {name for name, each in services.items() if "cpu" in each.get("profiles", ["cpu"])}
    assert started == {"gateway-cpu", "redis"}


def test_with_a_gpu_a_small_and_a_large_engine_start_too(services: dict[str, dict[str, Any]]) -> None:
    started = {name for name, each in services.items() if "gpu" in each.get("profiles", ["gpu"])}
    assert started == {"gateway-gpu", "redis", "vllm-small", "vllm-large"}
    for name in ("vllm-small", "vllm-large"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_nothing_starts_before_what_it_needs_is_healthy(services: dict[str, dict[str, Any]]) -> None:
    for name, each in services.items():
        for needed, how in each.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in services[needed], needed


def test_redis_loses_at_most_a_second_and_is_reachable_from_the_gateways_only(
    services: dict[str, dict[str, Any]],
) -> None:
    command = services["redis"]["command"][-1]
    assert "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction" in command
    assert "ports" not in services["redis"]
    assert {name for name, each in services.items() if "store" in each.get("networks", [])} == {
        "redis",
        "gateway-cpu",
        "gateway-gpu",
    }


def test_no_port_is_open_to_the_network(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for each in services.values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_mounted_file_is_there(services: dict[str, dict[str, Any]]) -> None:
    mounted = [volume.split(":")[0] for each in services.values() for volume in each.get("volumes", [])]
    files = [ROOT / path for path in mounted if path.startswith("./")]
    assert files
    assert all(path.is_file() for path in files)
