"""GET /spend/logs as LiteLLM's clients know it: by day, by day, key and model, or a row for each request.

Rows of requests come from the outcome log, as far back as the log is looked through. There are none where `log.enabled`
is false. Sums come from what was settled, which is never left out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from fastapi import APIRouter

from policies.records import DecisionRecord, LogEntry, SettlementRecord
from router.stores.keys import Key
from router.stores.open import Stores
from router.stores.reports import SpendLine, grouped
from router.types import NANO_PER_USD

Json = dict[str, Any]
DAYS = 29  # before the last one, where no first one is named
LOOKED_THROUGH = 4_000  # entries of the log: two or more a request


class Pages(Protocol):
    """Keys by whatever LiteLLM's clients call them."""

    async def find(self, name: str) -> Key:
        """Raises: NotFound."""

    def today(self) -> str:
        """UTC."""


def spend_routes(router: APIRouter, pages: Pages, stores: Stores, admins: Any) -> None:
    """Adds the route."""
    managed = APIRouter(route_class=admins)

    @managed.get("/spend/logs")
    async def logs(
        api_key: str | None = None,
        user_id: str | None = None,
        request_id: str | None = None,
        start_date: dt.date | None = None,
        end_date: dt.date | None = None,
        summarize: bool = True,
    ) -> list[Json]:
        """What was settled: by day between two dates, else a row for each day, key and model; with `request_id`, or
        `summarize=false`, a row for each request."""
        last = end_date or dt.date.fromisoformat(pages.today())
        first = start_date or last - dt.timedelta(days=DAYS)
        keys = {key.id: key async for key in stores.keys.all(Key)}
        wanted = set(keys) if user_id is None else {each.id for each in keys.values() if _user(each) == user_id}
        if api_key is not None:
            wanted &= {(await pages.find(api_key)).id}
        if request_id is not None:
            return list(_requests(await stores.log.of(request_id), keys))
        everybody = api_key is None and user_id is None
        if not summarize:
            rows = _requests(await stores.log.latest(LOOKED_THROUGH), keys)
            days = (first.isoformat(), last.isoformat())
            mine = [each for each in rows if everybody or each["metadata"]["key_id"] in wanted]
            return [each for each in mine if days[0] <= each["startTime"][:10] <= days[1]]
        lines = await stores.spend.lines(since=first.isoformat(), until=last.isoformat())
        lines = [line for line in lines if everybody or line.key in wanted]
        if start_date is not None and end_date is not None:
            return _by_day(lines, keys)
        return [
            _log(line, keys.get(line.key or "")) for line in grouped(lines, ("day", "tenant", "team", "key", "model"))
        ]

    router.include_router(managed)


def _requests(entries: Iterable[LogEntry], keys: Mapping[str, Key]) -> Iterator[Json]:
    """A row for each decision that was settled, in the order of their ends."""
    decided: dict[str, DecisionRecord] = {}
    for entry in entries:
        if isinstance(entry, DecisionRecord):
            decided[entry.decision_id] = entry
        elif isinstance(entry, SettlementRecord) and entry.outcome == "settled" and entry.decision_id in decided:
            yield _request(decided[entry.decision_id], entry, keys)


def _request(decision: DecisionRecord, end: SettlementRecord, keys: Mapping[str, Key]) -> Json:
    key = keys.get(decision.key_id)
    return {
        "request_id": decision.decision_id,
        **_spent(end.model, end.cost, end.prompt_tokens, end.completion_tokens),
        **_whose(key, decision.key_id),
        "team_id": key.team if key is not None else None,
        "startTime": _time(decision.at_ms),
        "endTime": _time(end.at_ms),
        "completionStartTime": _time(decision.at_ms + round(end.first_byte_ms)) if end.first_byte_ms else None,
        "metadata": {"key_id": decision.key_id, "response_id": end.response_id, **decision.metadata},
    }


def _spent(model: str | None, cost: int, prompt: int, completion: int) -> Json:
    return {
        "call_type": "acompletion",
        "spend": cost / NANO_PER_USD,
        "total_tokens": prompt + completion,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "model": model,
        "model_group": model,
    }


def _whose(key: Key | None, key_id: str | None) -> Json:
    name = key.digest.hex() if key is not None else key_id
    return {"api_key": name, "user": (_user(key) if key is not None else None) or ""}


def _user(key: Key) -> str | None:
    return key.terms.metadata.get("user_id")


def _by_day(lines: list[SpendLine], keys: Mapping[str, Key]) -> list[Json]:
    found: list[Json] = []
    for total in grouped(lines, ("day",)):
        of_day = [line for line in lines if line.day == total.day]
        users: dict[str, float] = {}
        for line in of_day:
            user = _whose(keys.get(line.key or ""), None)["user"]
            users[user] = users.get(user, 0.0) + line.cost_nanousd / NANO_PER_USD
        models = {str(each.model): each.cost_nanousd / NANO_PER_USD for each in grouped(of_day, ("model",))}
        spend = total.cost_nanousd / NANO_PER_USD
        found.append({"startTime": total.day, "spend": spend, "users": users, "models": models})
    return found


def _log(line: SpendLine, key: Key | None) -> Json:
    return {
        "request_id": "/".join(filter(None, (line.day, line.key, line.model))),
        **_spent(line.model, line.cost_nanousd, line.prompt_tokens, line.completion_tokens),
        **_whose(key, line.key),
        "team_id": line.team or None,
        "startTime": line.day,
        "endTime": line.day,
        "metadata": {"requests": line.requests},
    }


def _time(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat()
