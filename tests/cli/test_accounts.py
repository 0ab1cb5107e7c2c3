"""`pointsman tenants`, `budgets` and `spend` print what the admin API says, from the same store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import yaml

from cli import main
from router.stores.keys import Tenant
from router.stores.open import open_stores
from router.terms import Terms
from tests.stores.making import budget, buy, principal

DAILY = budget(2_000_000_000, scope="tenant:beta", period_s=86_400, calendar="day")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file with a tenant, and a store with another and what it spent."""
    path = tmp_path / "pointsman.yaml"
    tenants = {"acme": {"budgets": ["5 USD per day"], "preference": 0.4}}
    path.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "tenants": tenants}))
    (tmp_path / "state").mkdir()
    asyncio.run(spend(f"sqlite:///{tmp_path}/state/pointsman.db"))
    return path


async def spend(url: str) -> None:
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        await stores.keys.put(Tenant("beta", Terms.of(budgets=["2 USD per day"])))
        await stores.keys.create("beta", name="budgets", terms=Terms.of(budgets=["0.5 USD per week"]))
        await stores.keys.create("beta", name="no budgets of its own")
        await buy(stores, principal(DAILY, tenant="beta"), 1_000_000, now_ms=time.time_ns() // 1_000_000)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_tenants_of_the_file_and_of_the_api_are_one_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "tenants", "--config", str(config)).splitlines()
    (acme,) = [line for line in shown if "acme" in line]
    (beta,) = [line for line in shown if "beta" in line]
    assert "file" in acme
    assert "5 USD per day" in acme
    assert "api" in beta


def test_budgets_say_what_is_left_and_how_long_it_lasts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "budgets", "--config", str(config))
    assert "tenant:acme" in shown
    assert "nothing is spent" in shown
    (beta,) = [line.split("│") for line in shown.splitlines() if "tenant:beta" in line]
    assert [cell.strip() for cell in beta[2:7]] == ["2", "day", "0.001", "0", "1.999"]
    assert [line.split()[3:7] for line in shown.splitlines() if "key:k_" in line] == [["0.5", "│", "week", "│"]]


def test_the_environment_may_name_the_settings_file(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container every verb is then about the settings that are served."""
    monkeypatch.setenv("POINTSMAN_CONFIG", str(config))
    assert "acme" in said(capsys, "tenants")
    assert main(["keys", "create", "gamma"]) == 0
    assert "gamma" in said(capsys, "keys", "list", "--config", str(config))
    other = config.with_name("other.yaml")
    other.write_text("tenants: {delta: {}}\nstate_dir: " + str(config.parent / "elsewhere"))
    assert "acme" not in said(capsys, "tenants", "--config", str(other))


def test_spend_is_summed_by_what_is_asked_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "0.001" in said(capsys, "spend", "--config", str(config))
    assert "beta" in said(capsys, "spend", "--by", "tenant,day", "--csv", "--config", str(config))
    assert main(["spend", "--by", "colour", "--config", str(config)]) == 2
    assert main(["spend", "--days", "0", "--config", str(config)]) == 2


def test_a_key_for_a_tenant_that_nobody_knew_says_that_it_pays_without_a_budget(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name may be a typing mistake, and what it spends is bounded by nothing."""
    create = ("keys", "create", "--config", str(config))
    for known in ("acme", "beta"):
        assert "note:" not in said(capsys, *create, known)
    assert "there was no tenant 'betta'" in said(capsys, *create, "betta")
    assert "note:" not in said(capsys, *create, "betta")
