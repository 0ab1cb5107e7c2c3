"""Entries of one name: one backend with a replica for each, and the model they serve."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from router.errors import SettingsError
from router.settings.listed import missing_library
from router.settings.litellm_file.entries import Entry, Tree
from router.settings.litellm_file.keys import DEFAULTS, LIMITS, is_passed_on, unshared, unused
from router.settings.litellm_file.money import capacity
from router.settings.price_sections import written


def group(name: str, entries: Sequence[Entry], notes: list[str], *, filters: bool = False) -> tuple[Tree, Tree]:
    """(backend, model). `filters`: the router sends requests by their tags.

    Raises: SettingsError for a limit of money that cannot be kept.
    """
    entries = list(_of_one_kind(entries, notes))
    if any(each.is_wildcard for each in entries):
        entries = list(_of_one_model(entries, notes))
    direct = all(each.is_direct for each in entries)
    upstream = entries[0].upstream(direct=direct)
    filters = filters or any(each.info.get("enable_tag_filtering") is True for each in entries)
    by_tags = filters and any(each.tags for each in entries)
    backend: Tree = {
        "kind": "vllm" if direct else "litellm",
        "urls": [_replica(each, upstream, direct=direct, by_tags=by_tags) for each in entries],
        **_waiting(entries),
    }
    if (local := all(each.is_local for each in entries)) != direct:
        backend["local"] = local
    if direct and (headers := entries[0].params.get("extra_headers")):
        backend["headers"] = headers
    notes += [note for each in entries for note in unused(each, direct=direct, by_tags=by_tags)]
    notes += unshared(entries, direct=direct)
    notes += [note for each in entries for note in _missing(each)]
    return backend, _model(name, upstream, entries)


def _missing(entry: Entry) -> Iterator[str]:
    if (package := missing_library(entry.provider, entry.params)) is not None:
        yield f"{entry.path}: cannot be called before pip install '{package}', by which litellm calls {entry.provider}"


def _of_one_model(entries: Sequence[Entry], notes: list[str]) -> Iterator[Entry]:
    """The replicas of a wildcard are asked for one name, which the first one's model gives."""
    for each in entries:
        if each.model == entries[0].model:
            yield each
        else:
            notes.append(f"{each.path}: left out, since {entries[0].path} gives {each.name!r} another model")


def _of_one_kind(entries: Sequence[Entry], notes: list[str]) -> Iterator[Entry]:
    """The replicas of one name can do something in common: one that embeds is none of a model that chats."""
    first = entries[0]
    for each in entries:
        if first.capabilities is None or each.capabilities is None or {*first.capabilities} & {*each.capabilities}:
            yield each
        else:
            notes.append(f"{each.path}: left out, since it can do nothing that {first.path} can, whose name it has")


def _replica(entry: Entry, upstream: str, *, direct: bool, by_tags: bool) -> Tree:
    own = entry.upstream(direct=direct)
    replica: Tree = {
        "url": entry.api_base,
        "api_key": entry.params.get("api_key"),
        "upstream": own if own != upstream else None,
        "price": written(entry.price) if entry.price is not None else None,
        "context_tokens": entry.context_tokens,
        "weight": entry.params.get("weight"),
        "order": entry.params.get("order"),
        "tags": sorted(entry.tags) if by_tags else None,
    }
    if not direct:
        replica["params"] = {key: value for key, value in entry.params.items() if is_passed_on(key)}
        for key in ("custom_llm_provider", "drop_params", "additional_drop_params"):
            if key in entry.params:
                replica["params"][key] = entry.params[key]
    return {key: value for key, value in replica.items() if value is not None}


def _waiting(entries: Sequence[Entry]) -> Tree:
    """Time limits and concurrency, where an entry gives them."""
    backend: Tree = {}
    if given := [limit for each in entries if (limit := _seconds(each)) is not None]:
        backend["timeouts"] = {"first_byte_s": max(given)}
    params = [each.params for each in entries]
    if tries := [each["num_retries"] + 1 for each in params if isinstance(each.get("num_retries"), int)]:
        backend["attempts"] = max(1, *tries)
    if parallel := [each["max_parallel_requests"] for each in params if each.get("max_parallel_requests")]:
        backend["max_concurrency"] = max(parallel)
    return backend


def _seconds(entry: Entry) -> float | None:
    key = "timeout" if entry.params.get("timeout") else "stream_timeout"
    value = entry.params.get(key)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        path = f"{entry.path}.litellm_params.{key}"
        raise SettingsError(f"{path}: got {str(value)[:80]!r}, expected seconds", param=path) from None


def _model(name: str, upstream: str, entries: Sequence[Entry]) -> Tree:
    """The model its replicas are of: the most expensive price, so that a hold covers each; the widest context."""
    model: Tree = {"name": name, "backend": name, "upstream": upstream}
    prices = [each.price for each in entries if each.price is not None]
    if prices:
        most_expensive = max(prices, key=lambda price: price.prompt + price.completion)
        prompt, completion = max(each.prompt for each in prices), max(each.completion for each in prices)
        model["price"] = written(replace(most_expensive, prompt=prompt, completion=completion))
    for key in ("context_tokens", "max_output_tokens"):
        if known := [value for each in entries if (value := getattr(each, key)) is not None]:
            model[key] = max(known)
    if (longest := entries[0].params.get("max_tokens")) is not None:
        model["max_output_tokens"] = longest
    able = [set(each.capabilities) for each in entries if each.capabilities is not None]
    if able:
        model["capabilities"] = sorted(set.intersection(*able))
    first = entries[0].params
    for key, value in (
        ("extra_body", first.get("extra_body")),
        ("defaults", {k: v for k, v in first.items() if k in DEFAULTS and v is not None}),
        ("drop_fields", first.get("additional_drop_params")),
        ("groups", sorted(set().union(*(each.groups for each in entries)))),
        ("lacks", sorted(set().union(*(each.lacks for each in entries)))),
        ("limits", _limits(entries)),
        ("capacity", capacity(entries)),
    ):
        if value:
            model[key] = value
    return model


def _limits(entries: Sequence[Entry]) -> Tree:
    """Requests and tokens a minute of all replicas together, where every replica has such a limit."""
    found: Tree = {}
    for key, name in LIMITS.items():
        each = [entry.params.get(key, entry.info.get(key)) for entry in entries]
        if all(isinstance(value, int) and value > 0 for value in each):
            found[name] = sum(value for value in each if value is not None)
    return found


def names_of(value: Any) -> list[str]:
    """The names in a list that may hold mappings {model: …} as well."""
    each = value if isinstance(value, list) else [value]
    return [usable(one.get("model") if isinstance(one, dict) else one) for one in each]


def usable(name: object) -> str:
    """A name as it can be here: without blanks, commas and bars."""
    return re.sub(r"[\s,|]+", "-", str(name))
