"""Limits of money in LiteLLM's file: kept as budgets, or the start stops. None is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from router.amounts import CALENDAR_S
from router.errors import SettingsError
from router.settings.litellm_file.entries import Entry, Tree
from router.settings.source import mapping_at
from router.wildcards import STAR

ALL = "gateway"  # the name of what every model together may cost
_NO_LIMIT = {
    "budget_duration",
    "internal_user_budget_duration",
    "proxy_budget_rescheduler_min_time",
    "proxy_budget_rescheduler_max_time",
}
_NO_LIMIT |= {
    *("disable_reset_budget", "disable_budget_reservation", "budget_alert_ttl", "fail_closed_budget_enforcement"),
    *("maximum_spend_logs_cleanup_run_budget", "apply_user_budget_to_team_keys", "budget_reset_time"),
    *("budget_alerts", "max_ui_session_budget"),  # an alert, and sessions of a page that is not here
}
_LIMIT = re.compile(r"budget|max_spend|spend_limit|cost_limit", re.IGNORECASE)
_THOUGHT = re.compile(r"budget_tokens|thinking|reasoning", re.IGNORECASE)  # tokens a model may think
_OURS = frozenset({"pointsman", "environment_variables", "credential_list"})
_KEPT = re.compile(  # … and what is in there
    r"litellm_settings\.max_budget|router_settings\.provider_budget_config|model_list\[\d+\]\.litellm_params\.max_budget"
)
_DURATION = re.compile(r"(\d+) ?(s|m|h|d|w|mo)")
NEVER = "366d"  # the longest window there is, where a limit is never reset


def capacity(entries: Sequence[Entry]) -> Tree | None:
    """The model's own budget. Raises: SettingsError where replicas would share one that each has for itself."""
    limited = [each for each in entries if each.params.get("max_budget") is not None]
    if not limited:
        return None
    if len(entries) > 1:
        path = f"{limited[0].path}.litellm_params.max_budget"
        raise SettingsError(
            f"{path}: a budget of one entry among {len(entries)} of the name {limited[0].name!r} cannot be kept, "
            f"expected a model_name of its own for every entry with a budget",
            param=path,
        )
    (entry,) = entries
    return budget_of(entry.params, f"{entry.path}.litellm_params", "max_budget", "budget_duration")


def shared(tree: Mapping[str, Any], entries: Sequence[Entry], notes: list[str]) -> Tree:
    """Budgets that several models share: each provider's, and everybody's. Raises: SettingsError."""
    budgets: Tree = {}
    library, router = tree.get("litellm_settings") or {}, tree.get("router_settings") or {}
    if library.get("max_budget") is not None:
        budgets[ALL] = {"budget": budget_of(library, "litellm_settings", "max_budget", "budget_duration")}
    providers = mapping_at(router, "provider_budget_config", "router_settings")
    for provider, config in providers.items():
        path = f"router_settings.provider_budget_config.{provider}"
        if anyone := next((each for each in entries if each.provider == STAR), None):
            raise SettingsError(
                f"{path}: cannot be kept beside {anyone.path}, whose provider is known by the request alone, "
                f"expected wildcards of one provider such as {provider}/*",
                param=path,
            )
        named = sorted({each.name for each in entries if each.provider == provider or _made_by(each, provider)})
        if not named:
            notes.append(f"{path}: no model of this file is called at {provider}")
            continue
        limit, period = _keys(config, path)
        notes += [f"{path}.{key}: has no effect here" for key in sorted(map(str, set(config) - {limit, period}))]
        budgets[str(provider)] = {"budget": budget_of(config, path, limit, period), "models": named}
    return budgets


def unkept(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Limits of money that nothing here keeps, as (path, what to do)."""
    for path, key, value in _walk({name: node for name, node in tree.items() if name not in _OURS}, ""):
        if value in (None, False) or _KEPT.fullmatch(path) or key in _NO_LIMIT or _THOUGHT.search(key):
            continue
        if _LIMIT.search(key):
            yield path, "a limit of money that is not kept here, expected budgets under pointsman.tenants instead"


def _walk(node: object, path: str) -> Iterator[tuple[str, str, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            yield place, str(key), value
            if not _LIMIT.search(str(key)):
                yield from _walk(value, place)
    if isinstance(node, list):
        for number, value in enumerate(node):
            yield from _walk(value, f"{path}[{number}]")


def _made_by(entry: Entry, provider: object) -> bool:
    """Whether an entry without a provider in its name is called at this one, by litellm's own names."""
    prefixes = {"openai": ("gpt-", "o1", "o3", "o4", "chatgpt-"), "anthropic": ("claude-",), "gemini": ("gemini-",)}
    return "/" not in entry.model and entry.model.startswith(prefixes.get(str(provider), ("\0",)))


def _keys(config: object, path: str) -> tuple[str, str]:
    """LiteLLM took both pairs of names over time."""
    if not isinstance(config, dict):
        raise SettingsError(f"{path}: got {config!r}, expected {{budget_limit, time_period}}", param=path)
    limit = "budget_limit" if "budget_limit" in config else "max_budget"
    return limit, "time_period" if "time_period" in config else "budget_duration"


def budget_of(config: Mapping[str, Any], path: str, limit: str, period: str) -> Tree:
    """{limit, period} from the two keys of a mapping of LiteLLM's. Raises: SettingsError."""
    amount, duration = config.get(limit), config.get(period)
    if isinstance(amount, bool) or not isinstance(amount, int | float | str):
        raise SettingsError(f"{path}.{limit}: got {amount!r}, expected an amount in USD", param=f"{path}.{limit}")
    return {"limit": amount, "period": _period(duration, f"{path}.{period}")}


def _period(duration: object, path: str) -> str:
    """30s, 1h, 7d: a window of that length, which is never looser than a reset. 1mo: the calendar month. Also day, …"""
    if duration is None:
        return NEVER
    if isinstance(duration, str) and duration in CALENDAR_S:
        return str(duration)
    match = _DURATION.fullmatch(str(duration).strip())
    if match is None or (match[2] == "mo" and match[1] != "1"):
        raise SettingsError(f"{path}: got {duration!r}, expected a duration such as 30s, 1h, 7d or 1mo", param=path)
    return "month" if match[2] == "mo" else f"{match[1]}{match[2]}"
