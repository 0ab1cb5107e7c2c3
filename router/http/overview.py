"""/admin/v1 for whoever runs the gateway: engines, budgets, refusals, decisions and settings, as they are now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Query

from backends.anyprec.names import parsed_width
from backends.pool import Replica, Replicas
from policies.preference import knob_of
from router.http.admin_views import balance_view
from router.http.auth import Authentication, key_first
from router.http.explaining import outcome_of
from router.telemetry.counts import Labels
from router.telemetry.recent import MINUTES, Recent, recent
from router.telemetry.state import known_budgets
from router.types import DecisionRecord, LogEntry, Model, now_ms
from router.wiring import Runtime

MOST_SHOWN = 500  # decisions
ENTRIES = 4  # of the log for each, at least: itself, what it cost, and judgements
MASKED = "**********"
_SECRETIVE = re.compile(r"key|secret|token$|password|authorization|credential", re.IGNORECASE)


def routes(runtime: Runtime, authentication: Authentication) -> APIRouter:
    """The router, for holders of an admin key."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=key_first(authentication, admin=True))

    @router.get("/engines")
    async def engines() -> dict[str, object]:
        """Every backend with its engines (whether they answer, their load, their breakers) and the widths it serves."""
        decider = runtime.gateway.decider
        data = [
            {
                **_backend(name, backend),
                "serves": [_served(model) for model in decider.catalogue.models if model.backend == name],
                "why_spared": decider.spared.get(name),
            }
            for name, backend in runtime.fleet.backends.items()
        ]
        return {"object": "list", "data": data, "unpriced": runtime.unpriced or None}

    @router.get("/balances")
    async def balances() -> dict[str, object]:
        """Every budget of tenants, teams, keys and models, with its forecast; the tightest first; 2,000 at most."""
        catalogue = runtime.gateway.decider.catalogue
        budgets = await known_budgets(runtime.settings, catalogue, runtime.stores, of_keys=True)
        found = await runtime.stores.ledger.balances(budgets, now_ms())
        found.sort(key=lambda each: each.remaining / max(1, each.budget.limit))
        return {"object": "list", "data": [balance_view(each) for each in found]}

    @router.get("/refusals")
    async def refusals(minutes: Annotated[int, Query(ge=1, le=MINUTES)] = MINUTES) -> dict[str, object]:
        """How often requests were answered with an error, by status, reason and tenant; the most recent lead.

        `recent` is of the last minutes, `count` since the workers began.
        """
        return {"object": "list", "minutes": minutes, "data": await _refusals(runtime, minutes)}

    @router.get("/decisions")
    async def decisions(limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 50) -> dict[str, object]:
        """The latest decisions of all tenants with what came of them, the latest first."""
        entries = await runtime.stores.log.latest(ENTRIES * limit)
        reference_usd = runtime.gateway.decider.options.reference_usd
        return {"object": "list", "data": list(_latest(entries, reference_usd))[:limit]}

    @router.get("/settings")
    async def settings(everything: bool = False) -> dict[str, object]:
        """The settings in force, with secrets masked: what differs from the defaults, or everything."""
        dumped = runtime.settings.model_dump(mode="json", exclude_defaults=not everything)
        return {"object": "settings", "settings": masked(dumped), "notes": list(runtime.settings.notes)}

    return router


async def _refusals(runtime: Runtime, minutes: int) -> list[dict[str, object]]:
    counted = (await runtime.workers.total()).counters
    lately = recent(counted.get("refusals_by_minute", {}), now_s=now_ms() / 1000, minutes=minutes)
    whole = dict.fromkeys(lately, 0) | counted.get("refusals", {})
    rows = sorted(((lately.get(labels, Recent()), count, labels) for labels, count in whole.items()), key=_frequency)
    return [
        {
            "status": int(status),
            "code": code,
            "tenant": tenant or None,
            "count": count,
            "recent": of_late.count,
            "latest_ms": of_late.latest_ms or None,
        }
        for of_late, count, (status, code, tenant) in rows
    ]


def _frequency(row: tuple[Recent, int | float, Labels]) -> tuple[float, float]:
    of_late, count, _ = row
    return -of_late.count, -count


def _backend(name: str, backend: Replicas) -> dict[str, object]:
    return {
        "backend": name,
        "up": backend.is_up,
        "in_flight": backend.in_flight,
        "models": [found.name for found in backend.models],
        "engines": [_engine(each) for each in backend.replicas],
    }


def _served(model: Model) -> dict[str, object]:
    """A candidate: the model that it is a width of, and whether it may have traffic."""
    width = parsed_width(model.name)
    of = model.name if model.bits is None else model.parent or (model.name if width is None else width.model)
    return {"model": model.name, "of": of, "bits": model.bits, "admitted": model.admitted}


def _engine(replica: Replica) -> dict[str, object]:
    watch = replica.watch
    return {
        "engine": _address(replica.name),
        "answers": watch.answers,
        "breaker": replica.breaker.state,
        "in_flight": replica.in_flight,
        "running": watch.load.running,
        "waiting": watch.load.waiting,
        "kv_usage": watch.load.kv_usage,
        "round_trip_s": watch.rtt_s,
    }


def _latest(entries: Sequence[LogEntry], reference_usd: float) -> Iterable[dict[str, object]]:
    of: dict[str, list[LogEntry]] = {}
    for entry in entries:
        of.setdefault(entry.decision_id, []).append(entry)
    decided = [each for each in entries if isinstance(each, DecisionRecord)]
    for record in reversed(decided):
        yield {
            "decision_id": record.decision_id,
            "at_ms": record.at_ms,
            "tenant": record.tenant,
            "key": record.key_id,
            "policy": record.policy,
            "model": record.model,
            "propensity": record.propensity,
            "preference": round(knob_of(record.context.preference, reference_usd=reference_usd), 4),
            "candidates": len(record.context.arms),
            "text": record.text,
            **outcome_of(of[record.decision_id]),
        }


def masked(value: Any, name: str = "") -> Any:
    """The same without what might be secret: by its name, or as a part of an address."""
    if isinstance(value, Mapping):
        return {key: masked(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [masked(each, name) for each in value]
    if isinstance(value, str):
        return MASKED if value and _SECRETIVE.search(name) and not name.endswith("_tokens") else _address(value)
    return value


def _address(text: str) -> str:
    """Without a user's name and password."""
    if "@" not in text or "://" not in text:
        return text
    parts = urlsplit(text)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
