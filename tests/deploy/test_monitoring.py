"""The alerts and the board that are shipped: they load, fire when they should, and ask for what the gateway tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.telemetry.exposition import COUNTERS, HISTOGRAMS, budget_gauges, text_of
from router.telemetry.metrics import PrometheusMetrics
from router.types import Balance, Budget, NanoUsd

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy/grafana/pointsman.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
PROMTOOL = shutil.which("promtool")
GAUGES = {  # name -> labels
    "backend_up": ("backend",),
    "breaker_state": ("backend", "engine"),
    "holds": (),
    "learned_price_usd": ("model", "kind"),
    "learned_price_answers": ("model",),
    "learned_judgements": (),
    "policies": (),
    "budget_limit_usd": ("scope", "period", "hard"),
    "budget_spent_usd": ("scope", "period", "hard"),
    "budget_held_usd": ("scope", "period", "hard"),
    "budget_reset_seconds": ("scope", "period", "hard"),
}


def reported() -> dict[str, set[str]]:
    """Every series that a gateway tells, with its labels."""
    found = {f"pointsman_{name}": set(labels) for name, labels in GAUGES.items()}
    found |= {f"pointsman_{name}_total": set(labels) for name, (_, labels) in COUNTERS.items()}
    for name, (_, labels) in HISTOGRAMS.items():
        found |= {
            f"pointsman_{name}_{end}": {*labels, *(["le"] if end == "bucket" else [])}
            for end in ("bucket", "sum", "count")
        }
    return found


def queries() -> list[str]:
    """Of the alerts and the board."""
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    targets = [each["expr"] for panel in board()["panels"] for each in panel.get("targets", ())]
    return [*rules, *targets]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text())
    return found


def test_every_metric_of_alerts_and_board_exists_with_the_labels_that_they_ask_for() -> None:
    known = reported()
    for query in [*queries(), *re.findall(r"\(pointsman_\w+", json.dumps(board()["templating"]))]:
        for name, matchers in re.findall(r"(pointsman_\w+)(?:\{([^}]*)\})?", query):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"instance", "job"}
            assert name in known, query
            assert asked <= known[name], query


def test_what_is_known_here_is_what_a_page_shows() -> None:
    balance = Balance(Budget("tenant:acme", NanoUsd(1), 60), NanoUsd(0), NanoUsd(0), 0)
    page = text_of(PrometheusMetrics().own(), {}, budget_gauges([balance])).decode()
    shown = {family.name for family in text_string_to_metric_families(page)}
    expected = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in reported()}
    by_state = {"pointsman_learned_judgements", "pointsman_policies"}  # telemetry/state.py adds them to the page
    assert shown == expected - by_state


def test_groupings_are_by_labels_that_exist() -> None:
    every = {label for labels in reported().values() for label in labels} | {"instance", "le"}
    for query in queries():
        for names in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(names.split(", ")) <= every, query


def test_the_board_is_what_grafana_reads() -> None:
    """Grafana's own schema, as its foundation SDK has it: what is read and written again is the same."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="needs the extra `test`")
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    plugins.register_default_plugins()
    again = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(board())))
    assert missing(board(), again) == []


def missing(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where something of one is not in the other; null and false are what is left out."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [each for key, value in wanted.items() for each in missing(value, found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [
            each
            for place, pair in enumerate(zip(wanted, found, strict=True))
            for each in missing(*pair, f"{path}[{place}]")
        ]
    return [] if wanted == found or (not wanted and not found) else [path]


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert {"summary", "do"} <= rule["annotations"].keys(), rule["alert"]
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
@pytest.mark.parametrize(
    "command", ["check rules alerts.yaml", "test rules alerts.test.yaml", "check config --syntax-only prometheus.yaml"]
)
def test_promtool_takes_them_and_they_fire_when_they_should(command: str) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *command.split()], cwd=ALERTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_soft_budget_beside_a_hard_one_of_the_same_period_has_gauges_of_its_own() -> None:
    hard, soft = Budget("tenant:acme", NanoUsd(10**9), 60), Budget("tenant:acme", NanoUsd(2 * 10**9), 60, hard=False)
    balances = [Balance(each, NanoUsd(0), NanoUsd(0), 0) for each in (hard, soft)]
    page = text_of(PrometheusMetrics().own(), {}, budget_gauges(balances)).decode()
    assert 'pointsman_budget_limit_usd{hard="true",period="60s",scope="tenant:acme"} 1.0' in page
    assert 'pointsman_budget_limit_usd{hard="false",period="60s",scope="tenant:acme"} 2.0' in page
