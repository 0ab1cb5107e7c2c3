"""compose.yaml: valid, two profiles, and nothing that starts before what it needs answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from router.catalogue.listing import fleet_of
from router.settings import load

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


def test_with_a_gpu_a_store_starts_beside_a_small_and_a_large_engine(
    services: dict[str, dict[str, Any]],
) -> None:
    started = {name for name, each in services.items() if "gpu" in each.get("profiles", ["gpu"])}
    assert started == {"gateway-gpu", "redis", "vllm-small", "vllm-large", "vllm-store"}
    for name in ("vllm-small", "vllm-large", "vllm-store"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def unset(text: str) -> str:
    """What compose makes of ${NAME:-default} where nothing is set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


def test_the_engines_of_one_gpu_start_one_after_the_other_and_fit_on_it(services: dict[str, dict[str, Any]]) -> None:
    engines = {name: each for name, each in services.items() if name.startswith("vllm-")}
    waits = [set(each.get("depends_on", {})) for each in engines.values()]
    assert sorted(len(each) for each in waits) == [0, 1, 1]
    assert len(set().union(*waits)) == 2  # a chain
    flag = "--gpu-memory-utilization"
    shares = [float(unset(each["command"][each["command"].index(flag) + 1])) for each in engines.values()]
    assert sum(shares) <= 0.95


def test_the_store_is_an_any_precision_one_in_the_image_of_the_plugin(services: dict[str, dict[str, Any]]) -> None:
    engine = services["vllm-store"]
    assert (ROOT / engine["build"]["dockerfile"]).is_file()
    mounted = [unset(each) for each in engine["volumes"]]
    (source,) = [each.split(":")[0] for each in mounted if each.endswith(":/stores:ro")]
    place = unset(engine["command"][engine["command"].index("--model") + 1])
    config = json.loads((ROOT / source / Path(place).name / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "anyprec"


@pytest.mark.anyio
@pytest.mark.parametrize("file", ["deploy/settings/gpu.yaml", "deploy/kubernetes/base/pointsman.yaml"])
async def test_every_width_of_the_store_is_an_arm_that_waits_to_be_admitted(file: str, tmp_path: Path) -> None:
    card = {"id": "compact", "object": "model", "anyprec_bits": [3, 3.25, 4, 8], "max_model_len": 512}
    environment = {"ENGINE_KEY": "k", "REDIS_PASSWORD": "p", "POINTSMAN_ADMIN_KEY": "sk-administrator"}
    async with ScriptedServer(lambda *_: Line(), models=[card]) as server:
        text = (ROOT / file).read_text()
        for engine in ("vllm-store-0.vllm-store", "vllm-store"):
            text = text.replace(f"http://{engine}:8000", server.url)
        written = tmp_path / "pointsman.yaml"
        written.write_text(text.replace("/var/lib/pointsman", str(tmp_path)))
        fleet = await fleet_of(load(written, environment))
        try:
            models = {model.name: model for model in fleet.catalogue().models}
        finally:
            for backend in fleet.backends.values():
                await backend.aclose()
    assert {name for name, model in models.items() if model.backend == "compact"} == {
        "compact", "compact@3bit", "compact@3.25bit", "compact@4bit", "compact@8bit",
    }  # fmt: skip
    assert models["compact"].admitted
    assert not models["compact@3bit"].admitted
    assert dict(models["compact@3.25bit"].extra_body) == {"vllm_xargs": {"anyprec_bits": 3.25}}
    assert "large" in models


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
