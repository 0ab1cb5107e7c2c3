"""LiteLLM's own configuration file, understood as it is: `model_list` becomes backends and models.

Entries of one model_name become replicas. OpenAI-compatible servers (hosted_vllm/, openai/ with api_base …) are called
directly, other providers through litellm. What has no counterpart is listed in the notes, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.errors import SettingsError
from router.settings import amounts
from router.types import NanoUsd

Tree = dict[str, Any]
DIRECT = {
    "hosted_vllm",
    "openai",
    "text-completion-openai",
    "vllm",
    "openai_like",
    "litellm_proxy",
    "lm_studio",
    "llamafile",
}
ASSUMED_USD = "1"  # per million tokens each way, for a server of one's own that the file does not price
_REPLICA = {"model", "api_base", "base_url", "api_key", "custom_llm_provider"}
_COSTS = {"input_cost_per_token": "prompt", "output_cost_per_token": "completion"}
_ELSEWHERE = {*_COSTS, "timeout", "stream_timeout", "max_parallel_requests", "extra_body", "extra_headers"}
_ROUTING = {"rpm", "tpm", "weight", "order", "tags", "max_budget", "budget_duration", "cooldown_time"}
_CAPABILITIES = {"supports_vision": "vision", "supports_function_calling": "tools"}
_MODES = {"embedding": ["embeddings"], "completion": ["completions", "logprobs"]}
_SECTIONS = {
    "model_list",
    "pointsman",
    "general_settings",
    "router_settings",
    "litellm_settings",
    "environment_variables",
}


def is_litellm(tree: Mapping[str, Any]) -> bool:
    """Whether this is LiteLLM's form of a settings file."""
    return "model_list" in tree


def translate(tree: Tree) -> tuple[Tree, tuple[str, ...]]:
    """(the same in Pointsman's form, what has no effect or was assumed). A section `pointsman` adds to it.

    Raises: SettingsError for entries that are not LiteLLM's either.
    """
    notes: list[str] = [f"{key}: not a section of LiteLLM's file, ignored" for key in sorted(set(tree) - _SECTIONS)]
    backends: Tree = {}
    models: list[Tree] = []
    for name, entries in _groups(tree["model_list"], notes).items():
        backends[name], model = _backend(name, entries, notes)
        models.append(model)
    own = _mapping(tree, "pointsman")
    translated = {"backends": backends, "models": models, **_general(tree, notes), **_policies(tree, notes, backends)}
    if "default_price" not in own:
        _assume(backends, models, notes)
    for key, value in own.items():
        translated[key] = _joined(translated.get(key), value)
    return translated, tuple(notes)


def _joined(mine: object, added: object) -> object:
    if isinstance(mine, dict) and isinstance(added, dict):
        return {**mine, **added}
    return [*mine, *added] if isinstance(mine, list) and isinstance(added, list) else added


def _groups(entries: object, notes: list[str]) -> dict[str, list[Tree]]:
    """Entries by model_name, in the file's order."""
    if not isinstance(entries, list) or not entries:
        raise SettingsError("model_list: expected a list of {model_name, litellm_params}", param="model_list")
    groups: dict[str, list[Tree]] = {}
    for number, entry in enumerate(entries):
        path = f"model_list[{number}]"
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        for key, value in (
            ("model_name", isinstance(entry, dict) and entry.get("model_name")),
            ("litellm_params", params),
        ):
            if not value:
                raise SettingsError(
                    f"{path}.{key}: missing, expected {{model_name, litellm_params: {{model, …}}}}", param=path
                )
        if not isinstance(params, dict) or not isinstance(params.get("model"), str):
            raise SettingsError(f"{path}.litellm_params.model: missing, expected provider/model", param=path)
        if "*" in entry["model_name"]:
            notes.append(f"{path}: wildcard names are not candidates for a router, ignored")
            continue
        groups.setdefault(str(entry["model_name"]).replace(" ", "-"), []).append({**entry, "path": path})
    return groups


def _backend(name: str, entries: list[Tree], notes: list[str]) -> tuple[Tree, Tree]:
    """One backend with a replica for each entry, and its model."""
    direct = all(_is_direct(each["litellm_params"]) for each in entries)
    upstream = _upstream(entries[0]["litellm_params"], direct=direct)
    backend: Tree = {
        "kind": "vllm" if direct else "litellm",
        "urls": [_replica(each["litellm_params"], upstream, direct=direct) for each in entries],
        **_waiting([each["litellm_params"] for each in entries]),
    }
    notes += [note for each in entries for note in _unused(each, direct=direct)]
    if direct and (headers := entries[0]["litellm_params"].get("extra_headers")):
        backend["headers"] = headers
    return backend, _model(name, upstream, entries)


def _is_direct(params: Tree) -> bool:
    provider = params.get("custom_llm_provider") or str(params["model"]).partition("/")[0]
    return provider in DIRECT and bool(params.get("api_base") or params.get("base_url"))


def _upstream(params: Tree, *, direct: bool) -> str:
    """The name the engine knows the model by: without the provider where it is called directly."""
    model = str(params["model"])
    provider, _, rest = model.partition("/")
    return rest if direct and provider in DIRECT and rest else model


def _replica(params: Tree, upstream: str, *, direct: bool) -> Tree:
    replica: Tree = {"url": params.get("api_base") or params.get("base_url"), "api_key": params.get("api_key")}
    own = _upstream(params, direct=direct)
    replica["upstream"] = own if own != upstream else None
    if not direct:
        replica["params"] = {k: v for k, v in params.items() if k not in _REPLICA | _ELSEWHERE | _ROUTING}
        if "custom_llm_provider" in params:
            replica["params"]["custom_llm_provider"] = params["custom_llm_provider"]
    return {key: value for key, value in replica.items() if value is not None}


def _waiting(params: list[Tree]) -> Tree:
    """Time limits and concurrency, where an entry gives them."""
    backend: Tree = {}
    seconds = [each.get("timeout") or each.get("stream_timeout") for each in params]
    if given := [each for each in seconds if each]:
        backend["timeouts"] = {"first_byte_s": max(given, key=float)}
    if parallel := [each["max_parallel_requests"] for each in params if each.get("max_parallel_requests")]:
        backend["max_concurrency"] = max(parallel)
    return backend


def _model(name: str, upstream: str, entries: list[Tree]) -> Tree:
    """The model its replicas are of; where they differ in price the dearest counts, so that no budget leaks."""
    said = [{**each["litellm_params"], **(each.get("model_info") or {})} for each in entries]
    model: Tree = {"name": name, "backend": name, "upstream": upstream}
    if (price := _price(said, entries)) is not None:
        model["price"] = price
    info = {
        key: value for each in reversed(said) for key, value in each.items() if value is not None
    }  # the first rules
    if context := info.get("max_input_tokens"):
        model["context_tokens"] = context
    if longest := info.get("max_output_tokens"):
        model["max_output_tokens"] = longest
    if extra := info.get("extra_body"):
        model["extra_body"] = extra
    if (found := _capabilities(info)) is not None:
        model["capabilities"] = found
    return model


def _price(said: list[Tree], entries: list[Tree]) -> Tree | None:
    costs: dict[str, list[NanoUsd]] = {
        side: [_per_million(each[key], f"{entry['path']}.{key}") for each, entry in pairs if each.get(key) is not None]
        for key, side in _COSTS.items()
        for pairs in [list(zip(said, entries, strict=True))]
    }
    if not costs["prompt"]:
        return None
    return {side: amounts.show_usd(max(found, default=0)) for side, found in costs.items()}


def _capabilities(info: Tree) -> list[str] | None:
    if info.get("mode") in _MODES:
        return _MODES[info["mode"]]
    if not any(key in info for key in _CAPABILITIES):
        return None
    tools = info.get("supports_function_calling", True)
    engine = ["chat", "completions", "logprobs", "responses", "messages", *(["tools"] if tools else [])]
    return [*engine, *(["vision"] if info.get("supports_vision") else [])]


def _per_million(value: object, path: str) -> NanoUsd:
    try:
        return amounts.per_million(float(str(value)))
    except (ValueError, ArithmeticError):
        raise SettingsError(f"{path}: got {value!r}, expected USD per token such as 0.0000025", param=path) from None


def _unused(entry: Tree, *, direct: bool) -> Iterator[str]:
    known = _REPLICA | _ELSEWHERE if direct else set(entry["litellm_params"]) - _ROUTING
    for key in sorted(set(entry["litellm_params"]) - known):
        yield f"{entry['path']}.litellm_params.{key}: has no effect here"


def _assume(backends: Tree, models: list[Tree], notes: list[str]) -> None:
    """Servers of one's own are seldom priced in this form; free would be a leak, so they get a price and a note."""
    for model in models:
        if "price" not in model and backends[model["backend"]]["kind"] == "vllm":
            model["price"] = {"prompt": ASSUMED_USD, "completion": ASSUMED_USD}
            notes.append(
                f"model {model['name']}: no price in the file, {ASSUMED_USD} USD per million tokens is assumed; "
                f"give model_info.input_cost_per_token and output_cost_per_token, or pointsman.default_price"
            )


def _general(tree: Tree, notes: list[str]) -> Tree:
    """The master key opens everything, as it does there; without one callers need no key."""
    general = _mapping(tree, "general_settings")
    notes += [f"general_settings.{key}: has no effect here" for key in sorted(set(general) - {"master_key"})]
    if not (master := general.get("master_key")):
        notes.append("general_settings.master_key: none, so callers need no key (as with LiteLLM)")
        return {"auth": {"required": False}}
    key = {"secret": master, "name": "master", "admin": True}
    return {"auth": {"admin_key": master}, "tenants": {"default": {"keys": [key]}}}


def _policies(tree: Tree, notes: list[str], backends: Tree) -> Tree:
    """Retries, time limits and Redis; the rest of LiteLLM's routing is what this gateway does itself."""
    router, library = _mapping(tree, "router_settings"), _mapping(tree, "litellm_settings")
    retries = router.get("num_retries", library.get("num_retries"))
    timeout = router.get("timeout", library.get("request_timeout"))
    for backend in backends.values():
        if isinstance(retries, int):
            backend.setdefault("attempts", max(1, retries + 1))
        if timeout:
            backend.setdefault("timeouts", {"first_byte_s": timeout})
    used = {"num_retries", "timeout", "redis_url", "redis_host", "redis_port", "redis_password"}
    notes += [f"router_settings.{key}: has no effect here" for key in sorted(set(router) - used)]
    notes += [
        f"litellm_settings.{key}: has no effect here"
        for key in sorted(set(library) - {"num_retries", "request_timeout"})
    ]
    address = _redis(router)
    return {"store": {"redis": address}} if address else {}


def _redis(router: Tree) -> str | None:
    if url := router.get("redis_url"):
        return str(url)
    if not (host := router.get("redis_host")):
        return None
    password = f":{router['redis_password']}@" if router.get("redis_password") else ""
    return f"redis://{password}{host}:{router.get('redis_port', 6379)}/0"


def _mapping(tree: Tree, key: str) -> Tree:
    value = tree.get(key) or {}
    if not isinstance(value, dict):
        raise SettingsError(f"{key}: got {type(value).__name__}, expected a mapping", param=key)
    return value
