"""`pointsman import litellm` against a real PostgreSQL with the schema that LiteLLM's proxy makes.

Where there is no PostgreSQL on this machine, or no package with LiteLLM's migrations, these are skipped.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import main
from cli.importing import SPENT
from router.stores.keys import Key, Team, Tenant
from router.stores.open import open_stores
from router.stores.reports import AuditEntry
from router.types import NANO_PER_USD, Principal

BIN = Path(found).resolve().parent if (found := shutil.which("initdb")) else None
EXTRAS = find_spec("litellm_proxy_extras")
pytestmark = [
    pytest.mark.skipif(BIN is None or EXTRAS is None or find_spec("psycopg") is None, reason="no PostgreSQL here"),
    pytest.mark.timeout(300),
]
SECRETS = {name: f"sk-{name}-secret-1234" for name in ("plain", "team", "member", "user", "org", "old", "blocked")}
HASH = {name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in SECRETS.items()}
WHO = "created_by, updated_by"
ROWS = f"""
INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget, budget_duration, rpm_limit, {WHO}) VALUES
  ('b-org', 100, '30d', NULL, 'a', 'a'), ('b-member', 3, '7d', 5, 'a', 'a'), ('b-key', 9, NULL, NULL, 'a', 'a'),
  ('b-end', 1, '1d', NULL, 'a', 'a');
INSERT INTO "LiteLLM_OrganizationTable" (organization_id, organization_alias, budget_id, spend, models, {WHO}) VALUES
  ('org-1', 'Acme', 'b-org', 40, '{{}}', 'a', 'a');
INSERT INTO "LiteLLM_TeamTable" (team_id, team_alias, organization_id, max_budget, budget_duration, spend,
    models, tpm_limit) VALUES ('team-1', 'Research', 'org-1', 10, '1d', 4.5, '{{small}}', 1000),
  ('litellm-dashboard', 'ui', NULL, NULL, NULL, 0, '{{}}', NULL);
INSERT INTO "LiteLLM_UserTable" (user_id, max_budget, budget_duration, spend, models) VALUES
  ('u-1', 2, '1d', 0.5, '{{}}'), ('u-2', NULL, NULL, 0, '{{}}');
INSERT INTO "LiteLLM_TeamMembership" (user_id, team_id, budget_id, spend) VALUES ('u-2', 'team-1', 'b-member', 1.25);
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, spend, models, max_budget, budget_duration,
    rpm_limit, model_max_budget, model_spend, budget_reset_at) VALUES
  ('{HASH["plain"]}', 'sk-...1234', 'plain', 1.5, '{{small,large}}', 5, '30d', 7,
    '{{"large": {{"budget_limit": 2, "time_period": "1d"}}}}', '{{"large": 0.75}}', now() + interval '1 day');
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, models, team_id, user_id, budget_id) VALUES
  ('{HASH["team"]}', 'sk-...1234', 'of-team', '{{all-team-models}}', 'team-1', NULL, 'b-key'),
  ('{HASH["member"]}', 'sk-...1234', 'of-member', '{{}}', 'team-1', 'u-2', NULL),
  ('{HASH["user"]}', 'sk-...1234', 'of-user', '{{}}', NULL, 'u-1', NULL),
  ('{"e" * 64}', 'sk-...ui', NULL, '{{}}', 'litellm-dashboard', NULL, NULL);
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, spend, max_budget, budget_duration,
    organization_id, budget_reset_at, expires, blocked) VALUES
  ('{HASH["org"]}', 'sk-...1234', 'of-org', 3, 4, '1d', 'org-1', now() - interval '1 hour', NULL, NULL),
  ('{HASH["old"]}', 'sk-...1234', 'expired', 0, NULL, NULL, NULL, NULL, now() - interval '1 day', NULL),
  ('{HASH["blocked"]}', 'sk-...1234', 'blocked', 0, NULL, NULL, NULL, NULL, NULL, true);
INSERT INTO "LiteLLM_ProxyModelTable" (model_id, model_name, litellm_params, {WHO}) VALUES
  ('m-1', 'gpt-9', '{{"model": "c2VjcmV0"}}', 'a', 'a');
INSERT INTO "LiteLLM_CredentialsTable" (credential_id, credential_name, credential_values, {WHO}) VALUES
  ('c-1', 'aws', '{{"k": "c2VjcmV0"}}', 'a', 'a');
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with LiteLLM's tables in its database `litellm`."""
    assert BIN is not None
    assert EXTRAS is not None
    assert EXTRAS.origin is not None
    folder = Path("/tmp") / f"pointsman-pg-{os.getpid()}"
    folder.mkdir()
    user: dict[str, Any] = {"stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        user |= {"user": "postgres", "cwd": "/"}
    data, port = folder / "data", free_port()
    try:
        subprocess.run([BIN / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True, **user)
        options = f"-p {port} -k {folder} -c fsync=off -c listen_addresses=127.0.0.1"
        subprocess.run(
            [BIN / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start"], check=True, **user
        )
        url = f"postgresql://postgres@127.0.0.1:{port}"
        migrations = sorted((Path(EXTRAS.origin).parent / "migrations").glob("*/migration.sql"))
        script = "CREATE DATABASE litellm;\n\\c litellm\n" + "\n".join(each.read_text() for each in migrations) + ROWS
        psql = [str(BIN / "psql"), "-q", "-v", "ON_ERROR_STOP=1", f"{url}/postgres"]
        subprocess.run(psql, input=script, text=True, stdout=subprocess.DEVNULL, check=True)
        yield f"{url}/litellm"
    finally:
        subprocess.run([BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=False, **user)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pointsman.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "state_dir": str(tmp_path / "state"),
                "backends": {"a": {"kind": "scripted"}},
                "models": [
                    {"name": n, "backend": "a", "price": {"prompt": 1, "completion": 1}} for n in ("small", "large")
                ],
            }
        )
    )
    return path


def now_ms() -> int:
    return int(time.time() * 1000)


def bring(postgres: str, config: Path, *options: str) -> int:
    return main(["import", "litellm", postgres, "--config", str(config), *options])


def kept(config: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """(tenants, teams and keys by name, USD spent by scope and period of the principals of all secrets)"""

    async def read() -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
        address = f"sqlite:///{config.parent / 'state' / 'pointsman.db'}"
        things: dict[str, Any] = {}
        spent: dict[str, dict[str, float]] = {}
        async with open_stores(address, clock=now_ms) as stores:
            things |= {each.name: each async for each in stores.keys.all(Tenant)}
            things |= {each.name: each async for each in stores.keys.all(Team)}
            things |= {each.name: each async for each in stores.keys.all(Key)}
            for name, secret in SECRETS.items():
                principal = await stores.keys.find(secret, now_ms())
                if principal is not None:
                    things[f"principal {name}"] = principal
                    balances = await stores.ledger.balances(principal.budgets, now_ms())
                    spent[name] = {each.budget.scope: each.spent / NANO_PER_USD for each in balances}
        return things, spent

    return asyncio.run(read())


def test_without_apply_the_plan_is_printed_and_nothing_is_written(
    postgres: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bring(postgres, config) == 0
    said = capsys.readouterr().out
    assert "new       team team-1 Research of org-1 10 USD per 1d models small, 4.500000 USD spent" in said
    assert "left      model gpt-9: LiteLLM keeps it encrypted" in said
    assert "left      credential aws: LiteLLM keeps it encrypted" in said
    assert "a session of LiteLLM's own page" in said
    assert "Nothing was written" in said
    assert not any(secret in said or HASH[name] in said for name, secret in SECRETS.items())
    assert not any(isinstance(each, Key) for each in kept(config)[0].values())


def test_keys_go_on_working_with_their_budgets_limits_and_what_was_spent(postgres: str, config: Path) -> None:
    assert bring(postgres, config, "--apply") == 0
    things, spent = kept(config)
    plain: Principal = things["principal plain"]
    assert plain.allowed_models == frozenset({"small", "large"})
    assert {(each.scope.partition("|")[2], each.limit / NANO_PER_USD, each.period_s) for each in plain.budgets} == {
        ("", 5, 30 * 86_400),
        ("model:large", 2, 86_400),
    }
    assert plain.limits[0].requests_per_minute == 7
    key = things["plain"].id
    assert spent["plain"] == {f"key:{key}": 1.5, f"key:{key}|model:large": 0.75}
    team: Principal = things["principal team"]
    assert (team.team, team.tenant, team.allowed_models) == ("team-1", "org-1", frozenset({"small"}))
    assert spent["team"] == {f"key:{things['of-team'].id}": 0, "team:team-1": 4.5, "tenant:org-1": 40}
    assert spent["member"] == {"team:team-1/u-2": 1.25, "team:team-1": 4.5, "tenant:org-1": 40}
    assert spent["user"] == {"team:user:u-1": 0.5}
    assert things["team-1"].terms.metadata["litellm.alias"] == "Research"


def test_the_audit_log_says_who_imported(postgres: str, config: Path) -> None:
    bring(postgres, config, "--apply")

    async def noted() -> list[AuditEntry]:
        async with open_stores(f"sqlite:///{config.parent / 'state' / 'pointsman.db'}", clock=now_ms) as stores:
            return [each for each in await stores.audit.read() if each.kind == "litellm.imported"]

    found = asyncio.run(noted())
    assert [str(each.detail["by"]).startswith("command line of ") for each in found] == [True]
    assert found[0].detail["new"] != 0


def test_a_window_that_is_over_there_brings_no_spend(postgres: str, config: Path) -> None:
    bring(postgres, config, "--apply")
    things, spent = kept(config)
    assert spent["org"] == {f"key:{things['of-org'].id}": 0, "tenant:org-1": 40}


def test_what_does_not_work_there_does_not_work_here(postgres: str, config: Path) -> None:
    bring(postgres, config, "--apply")
    things, _ = kept(config)
    assert {"principal old", "principal blocked"}.isdisjoint(things)
    assert {"expired", "blocked"} <= things.keys()


def test_it_can_be_repeated_and_brings_only_what_is_new(
    postgres: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import psycopg

    bring(postgres, config, "--apply")
    first = kept(config)
    assert bring(postgres, config, "--apply") == 0
    assert kept(config) == first
    capsys.readouterr()
    where = f"WHERE token = '{HASH['plain']}'"
    with psycopg.connect(postgres) as connection:
        connection.execute(f'UPDATE "LiteLLM_VerificationToken" SET spend = 2.25, max_budget = 6 {where}')
    try:
        assert bring(postgres, config, "--apply") == 0
        said = capsys.readouterr().out
        assert said.startswith("changed   key")
        assert "0.750000 USD spent" in said
        things, spent = kept(config)
        assert spent["plain"][f"key:{things['plain'].id}"] == 2.25
        assert things["principal plain"].budgets[0].limit == 6 * NANO_PER_USD
        assert float(things["plain"].terms.metadata[SPENT]) == 2.25
    finally:
        with psycopg.connect(postgres) as connection:
            connection.execute(f'UPDATE "LiteLLM_VerificationToken" SET spend = 1.5, max_budget = 5 {where}')


def test_a_limit_that_cannot_be_kept_stops_it_before_anything_is_written(
    postgres: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import psycopg

    with psycopg.connect(postgres) as connection:
        values = "(user_id, budget_id, spend, blocked) VALUES ('e', 'b-end', 0, false)"
        connection.execute(f'INSERT INTO "LiteLLM_EndUserTable" {values}')
    try:
        assert bring(postgres, config, "--apply") == 2
        reported = capsys.readouterr()
        assert "NOT KEPT  end user e" in reported.out
        assert "--without-limits" in reported.err
        assert not any(isinstance(each, Key) for each in kept(config)[0].values())
        assert bring(postgres, config, "--apply", "--without-limits") == 0
    finally:
        with psycopg.connect(postgres) as connection:
            connection.execute('DELETE FROM "LiteLLM_EndUserTable"')


def test_the_database_is_only_read(postgres: str, config: Path) -> None:
    import psycopg

    def counts() -> list[Any]:
        with psycopg.connect(postgres) as connection:
            query = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
            return list(connection.execute(query))

    before = counts()
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    assert bring(postgres.replace("postgres@", "reader@"), config, "--apply") == 0
    assert counts() == before


@pytest.mark.parametrize(
    ("database", "said"), [("litellm-nobody", "cannot be read"), ("postgres", "no table of LiteLLM")]
)
def test_a_database_that_is_not_there_or_is_not_litellms_is_one_line(
    postgres: str, config: Path, capsys: pytest.CaptureFixture[str], database: str, said: str
) -> None:
    assert bring(postgres.replace("/litellm", f"/{database}"), config) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
