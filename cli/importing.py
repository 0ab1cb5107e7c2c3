"""The verb that brings another gateway's tenants, keys, budgets and spend: import litellm.

Nothing is written there: one transaction that may only read. The plan is printed, and carried out with --apply; what is
here already as it is there stays untouched, so that the import can be repeated. Fails where a limit cannot be kept.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.config import add_config
from router.errors import InvalidRequest, NotFound, PointsmanError
from router.stores.reports import by_command_line
from router.types import now_ms

if TYPE_CHECKING:
    from router.stores.keys import Team
    from router.stores.open import Stores
    from router.terms import Terms

Verbs = Any  # argparse gives its subparsers no public type
Row = Mapping[str, Any]
Thing = Any  # a Tenant, Team or Key
TABLES: tuple[str, ...] = (
    "OrganizationTable",
    "TeamTable",
    "UserTable",
    "TeamMembership",
    "BudgetTable",
    "VerificationToken",
)
TABLES += ("ProxyModelTable", "CredentialsTable", "EndUserTable", "TagTable", "ProjectTable")
SPENT, NAME = "litellm.spend", "litellm.alias"  # in the metadata: USD brought over so far, and its name there
BROUGHT = "litellm-import"  # tenant of the lines of spend that only move budgets
_DASHBOARD = "litellm-dashboard"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WIDER = ("aliases", "config", "permissions", "allowed_routes", "policies", "router_settings", "access_group_ids")
_LIMITS = ("max_budget", "soft_budget", "tpm_limit", "rpm_limit", "max_parallel_requests", "models", "blocked")


@dataclass(slots=True)
class ImportPlan:
    """What would be brought, parents first; and what not, with the reason."""

    things: list[Thing] = field(default_factory=list)
    spent: dict[str, Row] = field(default_factory=dict)  # rows by scope: "tenant:acme", "team:research", "key:k_01…"
    left: list[str] = field(default_factory=list)  # named, and not needed for a limit
    unkept: list[str] = field(default_factory=list)  # limits that nothing here keeps


def add_verbs(verbs: Verbs) -> None:
    """Add import."""
    top = verbs.add_parser("import", help="bring keys, teams, budgets and spend from another gateway")
    acts = top.add_subparsers(metavar="FROM", required=True)
    litellm = acts.add_parser("litellm", help="from the PostgreSQL database of a LiteLLM proxy, which is only read")
    litellm.add_argument("database", metavar="DATABASE_URL", help="postgresql://…")
    add_config(litellm)
    litellm.add_argument("--apply", action="store_true", help="do it; without, only the plan is printed")
    litellm.add_argument(
        "--without-limits", action="store_true", help="go on although a limit there cannot be kept here"
    )
    litellm.add_argument("--tenant", default="default", help="of what belongs to no organisation (default: default)")
    litellm.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from router.settings import load  # noqa: PLC0415
    from router.settings.paths import make_state_dir, store_url  # noqa: PLC0415  (each verb imports what it needs)
    from router.stores.open import open_stores  # noqa: PLC0415

    settings = load(arguments.config)
    plan = made(tables_of(arguments.database), tenant=arguments.tenant, now=datetime.now(UTC))

    async def work() -> int:
        make_state_dir(settings)
        async with open_stores(store_url(settings), clock=now_ms) as stores:
            return await carry_out(plan, stores, apply=arguments.apply, anyway=arguments.without_limits)

    return asyncio.run(work())


def tables_of(database: str) -> dict[str, list[Row]]:
    """Every row of the tables that matter; of a table that an older LiteLLM has not, none. Raises: PointsmanError."""
    try:
        import psycopg  # noqa: PLC0415  (an optional extra)
        from psycopg.rows import dict_row  # noqa: PLC0415
    except ImportError:
        from router.settings.extras import install_line  # noqa: PLC0415

        raise PointsmanError(f"import litellm needs the extra `import`: {install_line(['import'])}") from None
    found: dict[str, list[Row]] = {}
    try:
        with psycopg.connect(database, row_factory=dict_row, connect_timeout=10) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            for table in TABLES:
                name = f'"LiteLLM_{table}"'
                row = connection.execute("SELECT to_regclass(%s) AS known", (name,)).fetchone()
                known = row is not None and row["known"] is not None
                found[table] = list(connection.execute(f"SELECT * FROM {name}")) if known else []
            if not any(found.values()):
                raise PointsmanError("the database has no table of LiteLLM's with anything in it")
    except psycopg.Error as error:
        raise PointsmanError(f"the database cannot be read: {str(error).strip().splitlines()[0]}") from None
    return found


def made(tables: Mapping[str, list[Row]], *, tenant: str, now: datetime) -> ImportPlan:
    """The plan for these rows."""
    return _Maker(tables, tenant, now).plan


class _Maker:
    """Rows become tenants, teams and keys."""

    def __init__(self, tables: Mapping[str, list[Row]], tenant: str, now: datetime) -> None:
        self.plan = ImportPlan()
        self._tables, self._tenant, self._now = tables, tenant, now
        self._budgets = {row["budget_id"]: row for row in tables["BudgetTable"]}
        self._teams: dict[str, Team] = {}
        self._organisations()
        self._team_rows()
        self._user_teams()
        self._keys()
        self._rest()

    def _organisations(self) -> None:
        from router.stores.keys import Tenant  # noqa: PLC0415

        self.plan.things.append(Tenant(self._tenant))
        for row in self._tables["OrganizationTable"]:
            name = str(row["organization_id"])
            if (terms := self._terms(row, f"organisation {name}", row["organization_alias"])) is not None:
                self._add(Tenant(name, terms), f"tenant:{name}", row)

    def _team_rows(self) -> None:
        for row in self._tables["TeamTable"]:
            if row["team_id"] == _DASHBOARD:
                continue
            if (terms := self._terms(row, f"team {row['team_id']}", row["team_alias"])) is not None:
                self._team(str(row["team_id"]), row.get("organization_id") or self._tenant, None, terms, row)

    def _user_teams(self) -> None:
        """A user's own budget, and that of a member of a team, are of a team of one."""
        for row in self._tables["UserTable"]:
            if any(row.get(name) for name in _LIMITS) and row["user_id"] != "default_user_id":
                terms = self._terms(row, f"user {row['user_id']}", row.get("user_alias"))
                if terms is not None:
                    tenant = row.get("organization_id") or self._tenant
                    self._team(f"user:{row['user_id']}", tenant, None, terms, row)
        for row in self._tables["TeamMembership"]:
            if (parent := self._teams.get(str(row["team_id"]))) is not None and row.get("budget_id"):
                terms = self._terms(row, f"member {row['user_id']} of team {row['team_id']}", None)
                if terms is not None:
                    self._team(f"{parent.name}/{row['user_id']}", parent.tenant, parent.name, terms, row)

    def _team(self, name: str, tenant: str, parent: str | None, terms: Terms, row: Row) -> None:
        from router.stores.keys import Team  # noqa: PLC0415

        self._teams[name] = Team(name, tenant, parent, terms)
        self._add(self._teams[name], f"team:{name}", row)

    def _keys(self) -> None:
        from router.stores.keys import Key, digest_of  # noqa: PLC0415

        for row in self._tables["VerificationToken"]:
            token, what = str(row["token"]), f"key {row.get('key_alias') or row.get('key_name') or '?'}"
            if row.get("team_id") == _DASHBOARD:
                self.plan.left.append(f"{what}: a session of LiteLLM's own page")
                continue
            if not _DIGEST.fullmatch(token) and not token.startswith("sk-"):
                self.plan.left.append(f"{what}: kept neither as SHA-256 nor as it is")
                continue
            terms = self._terms(row, what, None)
            if terms is None:
                continue
            digest = bytes.fromhex(token) if _DIGEST.fullmatch(token) else digest_of(token)
            team = self._team_of(row)
            tenant = team.tenant if team is not None else row.get("organization_id") or self._tenant
            key = Key(
                f"k_{digest.hex()[:16]}",
                str(row.get("key_name") or "sk-")[:12],
                digest,
                tenant,
                _ms(row.get("created_at")) or 0,
                team.name if team is not None else None,
                str(row.get("key_alias") or "")[:128],
                _ms(row.get("expires")),
                terms=terms,
            )
            self._add(key, f"key:{key.id}", row)
            self.plan.left += [f"{what}: its {name} have no effect here" for name in _WIDER if row.get(name)]

    def _team_of(self, row: Row) -> Team | None:
        team, user = row.get("team_id"), row.get("user_id")
        names = (f"{team}/{user}", team) if team else (f"user:{user}",)
        return next((self._teams[name] for name in names if name in self._teams), None)

    def _rest(self) -> None:
        """What LiteLLM keeps encrypted, and limits of what is not known here."""
        for row in self._tables["ProxyModelTable"]:
            self.plan.left.append(f"model {row['model_name']}: LiteLLM keeps it encrypted; write it in the settings")
        for row in self._tables["CredentialsTable"]:
            self.plan.left.append(f"credential {row['credential_name']}: LiteLLM keeps it encrypted")
        for table, what, name in (("EndUserTable", "end user", "user_id"), ("TagTable", "tag", "tag_name")):
            for row in self._tables[table]:
                if row.get("budget_id") or row.get("blocked"):
                    self.plan.unkept.append(
                        f"{what} {row[name]}: has a limit of its own, and there are none of these here"
                    )
        for row in self._tables["ProjectTable"]:
            if row.get("budget_id"):
                self.plan.unkept.append(f"project {row['project_id']}: has a budget, and there are no projects here")

    def _terms(self, row: Row, what: str, alias: object) -> Terms | None:
        """None where they cannot be kept, which the plan says."""
        from router.settings.litellm_file.owners import terms_of  # noqa: PLC0415
        from router.terms import Terms, owner_name  # noqa: PLC0415

        try:
            own = terms_of(row)
            shared = terms_of(self._budgets.get(row.get("budget_id")) or {})
            for name in filter(None, (row.get("team_id"), row.get("organization_id"), row.get("user_id"))):
                owner_name(str(name))
        except (InvalidRequest, ValueError) as error:
            self.plan.unkept.append(f"{what}: {error}")
            return None
        notes = {NAME: str(alias)} if alias else {}
        notes |= {"user_id": str(row["user_id"])} if row.get("user_id") and row.get("token") else {}
        merged = {
            "budgets": (*own.budgets, *shared.budgets),
            "limits": (*own.limits, *shared.limits),
            "metadata": {**own.metadata, **notes},
        }
        return Terms.model_validate({**own.bare().__dict__, **merged})

    def _add(self, thing: Thing, scope: str, row: Row) -> None:
        self.plan.things.append(thing)
        reset = row.get("budget_reset_at")
        if reset is None or _aware(reset) > self._now:  # else its window is over, and LiteLLM has not come to it yet
            self.plan.spent[scope] = row


async def carry_out(plan: ImportPlan, stores: Stores, *, apply: bool, anyway: bool) -> int:
    """Print what is to be done and, with `apply`, do it. Raises: PointsmanError."""
    counts = dict.fromkeys(("new", "changed", "as it is"), 0)
    for thing in plan.things:
        old = await _known(stores, thing)
        fresh = _with_spent(thing, old)
        state = "new" if old is None else "as it is" if _same(fresh, old) else "changed"
        counts[state] += 1
        amount = _owed(plan, fresh)
        if state != "as it is" or amount:
            print(f"{state:8}  {_shown(fresh)}{f', {amount:.6f} USD spent' if amount else ''}")
    for line in plan.left:
        print(f"left      {line}")
    for line in plan.unkept:
        print(f"NOT KEPT  {line}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()), end="")
    if not apply:
        print(". Nothing was written; --apply does it.")
        return 0
    if plan.unkept and not anyway:
        print(".")
        raise PointsmanError("some limits cannot be kept here, see NOT KEPT; --without-limits goes on all the same")
    for thing in plan.things:
        await _bring(plan, stores, thing)
    await stores.audit.note("litellm.imported", "litellm", {**counts, "by": by_command_line()})
    print(". Done.")
    return 0


async def _bring(plan: ImportPlan, stores: Stores, thing: Thing) -> None:
    from router.stores.keys import Key  # noqa: PLC0415

    old = await _known(stores, thing)
    fresh = _with_spent(thing, old)
    if _owed(plan, fresh):
        await _charge(plan, stores, fresh)
        fresh = _noted(fresh, _spend(plan, fresh))
    if old is not None and _same(fresh, old):
        return
    if isinstance(fresh, Key):
        await stores.keys.adopt(fresh)
    else:
        await stores.keys.put(fresh)


async def _known(stores: Stores, thing: Thing) -> Thing | None:
    try:
        return await stores.keys.get(type(thing), _name(thing))
    except NotFound:
        return None


async def _charge(plan: ImportPlan, stores: Stores, thing: Thing) -> None:
    """What was spent there counts here, in every budget of the thing's own; of one model what that model cost."""
    from router.stores.keys import Key  # noqa: PLC0415

    row = plan.spent[_scope(thing)]
    whole = tuple(each.budget(_scope(thing)) for each in thing.terms.budgets if each.model is None)
    tenant, name = (thing.tenant, thing.id) if isinstance(thing, Key) else (BROUGHT, BROUGHT)
    await _spend_once(stores, (tenant, name, thing.team if isinstance(thing, Key) else None), whole, _owed(plan, thing))
    if SPENT in thing.terms.metadata:
        return  # what single models cost was brought the first time
    for each in thing.terms.budgets:
        if each.model is not None and (amount := float((row.get("model_spend") or {}).get(each.model, 0.0))):
            await _spend_once(stores, (BROUGHT, BROUGHT, None), (each.budget(_scope(thing)),), amount, each.model)


async def _spend_once(
    stores: Stores, who: tuple[str, str, str | None], budgets: Any, amount: float, model: str = "litellm"
) -> None:
    from router.amounts import usd  # noqa: PLC0415
    from router.gateway.types import new_id  # noqa: PLC0415
    from router.types import Offer, Principal, Reservation, Spend  # noqa: PLC0415

    tenant, name, team = who
    cost = usd(f"{amount:.9f}")
    soft = tuple(replace(each, hard=False) for each in budgets)  # it has been spent, whatever is left
    principal = Principal(name, tenant, team, budgets=soft)
    offer = Offer(model, cost, 0)
    hold = await stores.ledger.reserve(Reservation(new_id(), principal, (offer,), 30_000, now_ms()))
    await stores.ledger.settle(hold, Spend(cost, 0, 0, "settled"))


def _spend(plan: ImportPlan, thing: Thing) -> float:
    return float((plan.spent.get(_scope(thing)) or {}).get("spend") or 0.0)


def _owed(plan: ImportPlan, thing: Thing) -> float:
    """USD that was spent there and not brought yet; after a reset there, all of it."""
    spend, brought = _spend(plan, thing), float(thing.terms.metadata.get(SPENT, "0"))
    return round(spend - brought if spend >= brought else spend, 9)


def _with_spent(thing: Thing, old: Thing | None) -> Thing:
    brought = None if old is None else old.terms.metadata.get(SPENT)
    return thing if brought is None else _noted(thing, float(brought))


def _noted(thing: Thing, spend: float) -> Thing:
    metadata = {**thing.terms.metadata, SPENT: f"{spend:.9f}"}
    return replace(thing, terms=thing.terms.model_copy(update={"metadata": metadata}))


def _same(fresh: Thing, old: Thing) -> bool:
    """A tenant that was there before is not emptied by one that has no terms."""
    from router.stores.keys import Tenant  # noqa: PLC0415

    if isinstance(fresh, Tenant) and not fresh.terms.model_fields_set - {"metadata"} and not fresh.terms.metadata:
        return True
    return bool(fresh == old)


def _name(thing: Thing) -> str:
    return str(getattr(thing, "id", None) or thing.name)


def _scope(thing: Thing) -> str:
    return f"{type(thing).__name__.lower()}:{_name(thing)}"


def _shown(thing: Thing) -> str:
    """One line without anything secret."""
    terms = thing.terms
    parts = [
        type(thing).__name__.lower(),
        _name(thing),
        *filter(None, (getattr(thing, "prefix", None), terms.metadata.get(NAME))),
    ]
    parts += [f"of {thing.tenant}"] if hasattr(thing, "tenant") else []
    parts += [f"in {thing.team}"] if getattr(thing, "team", None) else []
    parts += [str(budget) for budget in terms.budgets]
    parts += [f"models {', '.join(sorted(terms.allowed_models)) or 'none'}"] if terms.allowed_models is not None else []
    parts += ["disabled"] if terms.disabled else []
    return " ".join(parts)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _ms(moment: datetime | None) -> int | None:
    """LiteLLM's times are UTC without saying so."""
    return None if moment is None else int(_aware(moment).timestamp() * 1000)
