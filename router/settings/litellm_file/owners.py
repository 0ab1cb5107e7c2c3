"""What LiteLLM says of a key, a team, a user or an organisation, as terms, and back. Pure.

Raises InvalidRequest, naming the field, for what is wrong, and for a limit that cannot be kept: none is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from router.errors import InvalidRequest, SettingsError
from router.settings.litellm_file.money import NEVER, budget_of
from router.terms import OwnerBudget, Terms
from router.types import NANO_PER_USD

Row = Mapping[str, Any]
EVERY_MODEL = frozenset({"all-proxy-models", "all-team-models"})
NO_MODEL = "no-default-models"
_PAIRS = (("max_budget", "budget_duration"), ("budget_limit", "time_period"))
UNKEPT = ("tpd_limit", "model_max_budget_alerts", "temp_budget_increase")


def terms_of(row: Row) -> Terms:
    """The terms of a row of LiteLLM's tables, or of a body of its management routes. Raises: InvalidRequest."""
    for field in UNKEPT:
        if row.get(field):
            raise InvalidRequest(f"{field}: a limit that is not kept here", param=field)
    given = {
        "budgets": list(_budgets(row)),
        "limits": list(_limits(row)),
        "allowed_models": _models(row.get("models")),
        "metadata": {key: _text(value) for key, value in (row.get("metadata") or {}).items() if value is not None},
        "disabled": bool(row.get("blocked")),
    }
    try:
        return Terms.of(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{place}: {str(first['msg']).removeprefix('Value error, ')}", param=place) from None


def row_of(terms: Terms) -> dict[str, object]:
    """LiteLLM's fields of these terms; of several budgets over everything the first is its `max_budget`."""
    whole = [each for each in terms.budgets if each.model is None and each.hard]
    soft = [each for each in terms.budgets if each.model is None and not each.hard]
    over_all = [each for each in terms.limits if each.model is None]
    of_models = [each for each in terms.limits if each.model is not None]
    models = sorted(terms.allowed_models) if terms.allowed_models is not None else []
    return {
        "models": models if models or terms.allowed_models is None else [NO_MODEL],
        "max_budget": _usd(whole[0]) if whole else None,
        "budget_duration": str(whole[0].period) if whole and str(whole[0].period) != NEVER else None,
        "soft_budget": _usd(soft[0]) if soft else None,
        "model_max_budget": {
            str(each.model): {"budget_limit": _usd(each), "time_period": str(each.period)}
            for each in terms.budgets
            if each.model is not None
        },
        "budget_limits": [{"max_budget": _usd(each), "budget_duration": str(each.period)} for each in whole[1:]],
        "rpm_limit": _least(each.requests_per_minute for each in over_all),
        "tpm_limit": _least(each.tokens_per_minute for each in over_all),
        "max_parallel_requests": _least(each.concurrent for each in over_all),
        "model_rpm_limit": {str(each.model): each.requests_per_minute for each in of_models},
        "model_tpm_limit": {str(each.model): each.tokens_per_minute for each in of_models},
        "metadata": dict(terms.metadata),
        "blocked": terms.disabled,
    }


def _budgets(row: Row) -> Iterator[dict[str, object]]:
    if row.get("max_budget") is not None:
        yield _budget(row, "max_budget", row.get("budget_duration"))
    if row.get("soft_budget") is not None:
        yield {**_budget(row, "soft_budget", row.get("budget_duration")), "hard": False}
    for number, window in enumerate(_loaded(row.get("budget_limits")) or ()):
        yield _of_mapping(window, f"budget_limits[{number}]")
    for model, limit in (_loaded(row.get("model_max_budget")) or {}).items():
        of_model = limit if isinstance(limit, Mapping) else {"max_budget": limit}
        yield {**_of_mapping(of_model, f"model_max_budget.{model}"), "model": model}


def _of_mapping(given: object, path: str) -> dict[str, object]:
    for limit, period in _PAIRS:
        if isinstance(given, Mapping) and given.get(limit) is not None:
            return _budget(given, limit, given.get(period), path=f"{path}.{limit}")
    raise InvalidRequest(f"{path}: expected {{budget_limit, time_period}}", param=path)


def _budget(row: Row, limit: str, period: object, *, path: str = "") -> dict[str, object]:
    try:
        return budget_of({limit: row[limit], "budget_duration": period}, path or limit, limit, "budget_duration")
    except SettingsError as error:
        raise InvalidRequest(error.message, param=path or limit) from None


def _limits(row: Row) -> Iterator[dict[str, object]]:
    whole = {
        "requests_per_minute": row.get("rpm_limit"),
        "tokens_per_minute": row.get("tpm_limit"),
        "concurrent": row.get("max_parallel_requests"),
    }
    if any(value is not None for value in whole.values()):
        yield whole
    inside = row.get("metadata") or {}
    by_model = {key: row.get(key) or inside.get(key) or {} for key in ("model_rpm_limit", "model_tpm_limit")}
    for model in sorted({name for each in by_model.values() for name in each}):
        requests, tokens = (by_model[key].get(model) for key in ("model_rpm_limit", "model_tpm_limit"))
        yield {"model": model, "requests_per_minute": requests, "tokens_per_minute": tokens}


def _models(models: object) -> list[str] | None:
    names = [str(each) for each in models] if isinstance(models, list | tuple) else []
    if not names or EVERY_MODEL & set(names):
        return None
    return [name for name in names if name != NO_MODEL]


def _loaded(value: object) -> Any:
    """A column of JSON may hold text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidRequest(f"got {str(value)[:80]!r}, expected JSON") from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _least(values: Iterable[int | None]) -> int | None:
    """All limits hold, so the least is the one that is felt."""
    return min((value for value in values if value is not None), default=None)


def _usd(budget: OwnerBudget) -> float:
    return budget.limit / NANO_PER_USD
