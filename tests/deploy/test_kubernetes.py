"""The kustomize base: every manifest against Kubernetes' schemas, every name it uses defined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.http.app import SETTLING_S
from router.settings import load
from router.settings.engine_sections import VllmSection

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
KUSTOMIZATIONS = sorted(FOLDER.glob("*/kustomization.yaml"))
MANIFESTS = sorted(
    path for path in FOLDER.glob("*/*.yaml") if path.name not in {"kustomization.yaml", "pointsman.yaml"}
)
ENV = {"REDIS_PASSWORD": "password", "POINTSMAN_ADMIN_KEY": "sk-administrator", "ENGINE_KEY": "engine-key"}


def documents(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return list(yaml.safe_load_all(file))


def everything() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from documents(path)


def workloads() -> list[dict[str, Any]]:
    return [each for each in everything() if each["kind"] in {"Deployment", "StatefulSet"}]


def named(kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in everything() if each["kind"] == kind}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_kubernetes_schemas_accept_every_manifest(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_names_only_files_that_are_there(path: Path) -> None:
    (kustomization,) = documents(path)
    files = [*kustomization["resources"], *(f for each in kustomization["configMapGenerator"] for f in each["files"])]
    assert all((path.parent / each).exists() for each in files)


def test_every_manifest_belongs_to_a_kustomization() -> None:
    used = {path.parent / each for path in KUSTOMIZATIONS for each in documents(path)[0]["resources"]}
    assert set(MANIFESTS) <= used


@pytest.mark.parametrize("folder", ["base", "ray"])
def test_the_gateway_calls_replicas_that_the_manifests_start(folder: str) -> None:
    settings = load(FOLDER / folder / "pointsman.yaml", ENV)
    sets = {each["metadata"]["name"]: each["spec"]["replicas"] for each in workloads()}
    for backend in settings.backends.values():
        assert isinstance(backend, VllmSection)
        for replica in backend.replicas:
            host = (replica.url or "").removeprefix("http://").partition(":")[0]
            pod, _, service = host.partition(".")
            name, _, number = pod.rpartition("-")
            assert name in named("StatefulSet")
            assert service in named("Service")
            assert int(number) < sets[name]


def test_engines_serve_under_the_names_the_gateway_asks_for() -> None:
    settings = load(FOLDER / "ray/pointsman.yaml", ENV)
    text = " ".join(path.read_text() for path in MANIFESTS)
    for model in settings.candidates():
        assert f"--served-model-name, {model.upstream}" in text or f"--served-model-name {model.upstream} " in text


def test_selectors_pick_the_pods_of_their_own_workload() -> None:
    for each in workloads():
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_every_mount_has_its_volume() -> None:
    for each in workloads():
        pod = each["spec"]["template"]["spec"]
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        volumes = claims | {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for box in pod["containers"] for mount in box.get("volumeMounts", [])} <= volumes


@pytest.mark.parametrize("name", ["gateway", "redis"])
def test_gateway_and_redis_run_without_rights_they_do_not_need(name: str) -> None:
    (workload,) = [each for each in workloads() if each["metadata"]["name"] == name]
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    for box in pod["containers"]:
        assert box["securityContext"]["readOnlyRootFilesystem"]
        assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_open_answers_may_finish_before_a_gateway_is_killed() -> None:
    (gateway,) = [each for each in workloads() if each["metadata"]["name"] == "gateway"]
    settings = load(FOLDER / "base/pointsman.yaml", ENV)
    pod, server = gateway["spec"]["template"]["spec"], settings.server
    hook_s = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= hook_s + server.grace_s + server.drain_s + SETTLING_S


def policies() -> list[dict[str, Any]]:
    return [each["spec"] for each in everything() if each["kind"] == "NetworkPolicy"]


def picks(selector: dict[str, Any], pod: dict[str, Any]) -> bool:
    """Whether a policy's or a peer's selector picks a workload's pods."""
    wanted: dict[str, str] = selector.get("matchLabels", {})
    labels: dict[str, str] = pod["metadata"]["labels"]
    return wanted.items() <= labels.items()


def test_nothing_comes_in_or_goes_out_but_by_a_rule() -> None:
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert closed in policies()
    assert all(set(each["policyTypes"]) == {"Ingress", "Egress"} for each in policies())


def test_engines_and_redis_hear_the_gateway_and_nobody_else() -> None:
    gateway = next(each for each in workloads() if each["metadata"]["name"] == "gateway")["spec"]["template"]
    for each in workloads():
        pod = each["spec"]["template"]
        if pod == gateway:
            continue
        rules = [rule for one in policies() if picks(one["podSelector"], pod) for rule in one.get("ingress", [])]
        peers = [peer for rule in rules for peer in rule["from"]]
        assert peers
        assert all(picks(peer["podSelector"], gateway) or picks(peer["podSelector"], pod) for peer in peers)
        asked = {port["port"] for rule in rules for port in rule.get("ports", [])}
        assert asked <= {8000, 6379}


def test_the_gateway_says_things_to_redis_and_the_engines_only() -> None:
    rules = [
        rule for each in policies() if each["podSelector"].get("matchLabels") == GATEWAY for rule in each["egress"]
    ]
    assert all("to" in rule for rule in rules)
    inside = [peer["podSelector"] for rule in rules for peer in rule["to"] if "podSelector" in peer]
    for each in workloads():
        pod = each["spec"]["template"]
        reached = any(picks(selector, pod) for selector in inside)
        assert reached == (each["metadata"]["name"] != "gateway"), each["metadata"]["name"]


GATEWAY = {"app.kubernetes.io/name": "gateway"}


def test_metrics_are_served_where_monitoring_may_come_and_nowhere_else() -> None:
    for folder in ("base", "ray"):
        telemetry = load(FOLDER / folder / "pointsman.yaml", ENV).telemetry
        assert (telemetry.open_to, telemetry.listen) == ("nobody", "0.0.0.0:9090")
    (gateway,) = [each for each in workloads() if each["metadata"]["name"] == "gateway"]
    assert {"name": "metrics", "containerPort": 9090} in gateway["spec"]["template"]["spec"]["containers"][0]["ports"]
    rules = [
        rule for each in policies() if each["podSelector"].get("matchLabels") == GATEWAY for rule in each["ingress"]
    ]
    (scraped,) = [rule for rule in rules if {"protocol": "TCP", "port": 9090} in rule["ports"]]
    assert scraped["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_engines_ask_for_the_key_the_gateway_sends_and_are_not_root() -> None:
    for folder in ("base", "ray"):
        for backend in load(FOLDER / folder / "pointsman.yaml", ENV).backends.values():
            assert isinstance(backend, VllmSection)
            assert all(each.api_key and each.api_key.get_secret_value() == "engine-key" for each in backend.replicas)
    engines = [each["spec"]["template"] for each in workloads() if each["metadata"]["name"].startswith("vllm-")]
    assert len(engines) == 4
    for pod in engines:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for box in pod["spec"]["containers"]:
            assert box["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            keys = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef", {}).get("key") for each in box["env"]}
            assert keys["VLLM_API_KEY"] == "engine-key"
            assert not any(mount["mountPath"].startswith("/root") for mount in box["volumeMounts"])
