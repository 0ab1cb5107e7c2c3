"""litellm's cost map as it is installed, read as data: litellm itself is not imported.

How it fails: without the extra `providers` there is no map (ImportError). What an entry holds that is no finite price,
no count or no text is left out of the listing, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

_PRICES = "model_prices_and_context_window_backup.json"
_PROVIDERS = "provider_endpoints_support_backup.json"
_MOST_USD_PER_TOKEN = 1.0
_MOST_TOKENS = 2**40
_ABILITIES = {"supports_function_calling": "tools", "supports_vision": "vision"}
FEATURES = {  # of a request, and the keys by which the map says that a model has one
    "tool_choice": ("supports_tool_choice",),
    "json_schema": ("supports_response_schema", "supports_native_structured_output"),
    "reasoning": ("supports_reasoning",),
    "audio": ("supports_audio_input", "supports_audio_output"),
    "files": ("supports_pdf_input",),
    "parallel_tool_calls": ("supports_parallel_function_calling",),
    "prefill": ("supports_assistant_prefill",),
    "web_search": ("supports_web_search",),
}
_ROUTE = re.compile(r"^(converse|converse_like|invoke|responses|chat|o_series)/")  # which of its APIs is called
_REGION = re.compile(r"^(us|eu|apac|jp|au|ca|global|us-gov)\.(?=\w+\.)")  # of Bedrock's, where the map prices no region
_FACTORS = ("fast", "us")  # tiers that multiply a price, among what the map says of Anthropic's models alone
_MOST_TIMES = 100.0
_TUNED = re.compile(r"^((?:openai/)?ft:[^:/]+):.*$")  # ft:BASE:whose::which costs what its base does, tuned
_NO_SLASH = "sample_spec"  # the map's own documentation


@dataclass(frozen=True, slots=True)
class Listing:
    """What the map says of one model; None where it does not say. Prices in USD per token, at least 0."""

    mode: str | None
    costs: Mapping[str, float]  # by the map's own keys
    search_usd: float  # a search of the provider's, at its most expensive; 0 where the map does not say
    context_tokens: int | None
    max_output_tokens: int | None
    abilities: frozenset[str] = field(default_factory=frozenset)
    lacks: frozenset[str] = frozenset()  # features that it does not say the model has
    retires: str | None = None  # a date, YYYY-MM-DD


def find(model: str) -> Listing | None:
    """The listing of a model by the name litellm calls it; None where the map does not know it. Raises: ImportError."""
    entries = _entries(_PRICES)
    model = _TUNED.sub(r"\1", model)
    entry = entries.get(model)
    if entry is None:
        provider, _, rest = model.partition("/")
        names = [name for each in (rest, _ROUTE.sub("", rest)) for name in (each, _REGION.sub("", each))]
        entry = next((entries[name] for name in names if name in entries), None)
        if entry is not None and not _text(entry, "litellm_provider").startswith(provider):
            return None  # another provider's model of this name has another price
    return None if entry is None or model == _NO_SLASH else _listing(entry)


def is_provider(name: str) -> bool:
    """Whether litellm has a provider of this name. Raises: ImportError."""
    return name in _providers()


def under(provider: str) -> list[str]:
    """Every `provider/model` that the map prices for a provider, sorted; every name for "". Raises: ImportError.

    The map splits some providers: vertex_ai-language-models, vertex_ai-anthropic_models, ….
    """
    found = (
        name if not provider or name.startswith(f"{provider}/") else f"{provider}/{name}"
        for name, entry in _entries(_PRICES).items()
        if not provider or f"{_text(entry, 'litellm_provider')}-".startswith(f"{provider}-")
    )
    return sorted(set(found) - {_NO_SLASH})


@lru_cache(maxsize=1)
def _providers() -> frozenset[str]:
    support = _read(_PROVIDERS).get("providers")
    listed = support if isinstance(support, Mapping) else {}
    priced = (_text(entry, "litellm_provider") for entry in _entries(_PRICES).values())
    return frozenset(listed) | frozenset(filter(None, priced))


@lru_cache(maxsize=1)
def _entries(file: str) -> Mapping[str, Mapping[str, object]]:
    return {name: entry for name, entry in _read(file).items() if isinstance(entry, Mapping)}


def _read(file: str) -> dict[str, object]:
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        raise ImportError("litellm's cost map needs the extra `providers`")
    path = Path(spec.origin).parent / file
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise ImportError(f"litellm's {file} cannot be read: {error}") from error


def _listing(entry: Mapping[str, object]) -> Listing:
    return Listing(
        mode=_text(entry, "mode") or None,
        costs=_costs(entry),
        search_usd=max(_searches(entry), default=0.0),
        context_tokens=_count(entry, "max_input_tokens") or _count(entry, "max_tokens"),
        max_output_tokens=_count(entry, "max_output_tokens"),
        abilities=frozenset(ability for key, ability in _ABILITIES.items() if entry.get(key) is True),
        lacks=frozenset(name for name, keys in FEATURES.items() if all(entry.get(key) is not True for key in keys)),
        retires=_day(_text(entry, "deprecation_date")),
    )


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _day(text: str) -> str | None:
    with suppress(ValueError):
        return date.fromisoformat(text).isoformat()
    return None


def _price(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < _MOST_USD_PER_TOKEN else None


def _costs(entry: Mapping[str, object]) -> dict[str, float]:
    """By the map's own keys; lengths and factors that it nests have the keys that it has for others."""
    found = {key: usd for key in entry if "cost" in key and (usd := _price(entry, key)) is not None}
    ranges = entry.get("tiered_pricing")
    for each in ranges if isinstance(ranges, list) else []:
        if isinstance(each, Mapping) and isinstance(bounds := each.get("range"), list) and bounds:
            least = _count({"least": bounds[0]}, "least") or 0
            above = f"_above_{least // 1000}k_tokens" if least else ""
            found |= {f"{key}{above}": usd for key in each if "cost" in key and (usd := _price(each, key)) is not None}
    special = entry.get("provider_specific_entry")
    times = (
        {f"provider_specific_entry.{name}": special.get(name) for name in _FACTORS}
        if isinstance(special, Mapping)
        else {}
    )
    times |= {key: entry[key] for key in entry if "uplift_multiplier" in key}
    for key, by in times.items():
        if isinstance(by, int | float) and not isinstance(by, bool) and 1 <= by <= _MOST_TIMES:
            found[key] = float(by)
    return found


def _searches(entry: Mapping[str, object]) -> list[float]:
    by_size = entry.get("search_context_cost_per_query")
    sizes = by_size if isinstance(by_size, Mapping) else {}
    maps = _price(entry, "google_maps_grounding_cost_per_query")
    return [*(usd for size in sizes if (usd := _price(sizes, size)) is not None), maps or 0.0]


def _count(entry: Mapping[str, object], key: str) -> int | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None
