"""One entry of `model_list`: where it is called, what it can do, what it costs; or why nothing can be sent there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from backends.cost_map import FEATURES
from router.errors import SettingsError
from router.settings import source
from router.settings.listed import FREE, Listed, Look
from router.settings.litellm_file.access import shut_by
from router.settings.price_sections import is_price, price_in
from router.settings.scalars import is_private, is_true
from router.types import Price
from router.wildcards import STAR

Tree = dict[str, Any]
ENTRY_LIMITS = ("rpm", "tpm")  # that may stand beside litellm_params too
DIRECT = frozenset({"hosted_vllm", "openai", "vllm", "openai_like", "litellm_proxy", "lm_studio", "llamafile"})
_NUMBERS = {"rpm", "tpm", "weight", "max_tokens", "timeout", "stream_timeout", "max_parallel_requests", "temperature"}
_NUMBERS |= {
    "order",
    "num_retries",
    "top_p",
    "seed",
    "n",
    "max_input_tokens",
    "max_output_tokens",
    "presence_penalty",
    "frequency_penalty",
}
_HAS_A_PLACE = frozenset({"ollama", "ollama_chat"})  # on this machine, where no address is given
_OWN_KEYS = {"openai": "OPENAI_API_KEY", "hosted_vllm": "HOSTED_VLLM_API_KEY"}  # litellm's own, where none is given
_ADDRESSED = frozenset({"hosted_vllm", "lm_studio", "llamafile", "xinference"})  # nowhere, unless it is said where
OWN_MACHINES = DIRECT | {"ollama", "ollama_chat", "xinference", "triton", "oobabooga", "petals", "infinity"}
OWN_MACHINES |= {"text-completion-openai", "lemonade", "docker_model_runner", "custom_openai", "aiohttp_openai"}
_ALSO_INSIDE = frozenset({"huggingface", "nvidia_nim"})  # providers whose servers people run themselves too
ASSUMED_USD = "1"  # per million tokens each way, for a server of one's own that nothing prices
_MODES = {"embeddings": "embedding", "completions": "completion"}  # as people write them too
_CHATS = frozenset({"chat", "responses"})
_SUPPORTS = {"supports_vision": "vision", "supports_function_calling": "tools"}
SAID = frozenset({*_SUPPORTS, *(key for keys in FEATURES.values() for key in keys)})  # of abilities, in a file
_PROVIDER = ("chat", "logprobs", "responses", "messages")
_ENGINE = (*_PROVIDER, "completions")
_EMBEDS = re.compile(
    r"(^|[/_.:-])(text-embedding|embed\w*|bge|gte|e5|jina-embeddings|sentence-transformers|minilm|mpnet|colbert\w*|clip)"
    r"([-_.:/\d]|$)",
    re.IGNORECASE,
)
_SPEAKS = re.compile(
    r"(^|[/_.:-])(rerank\w*|whisper|tts|kokoro|stable-diffusion|sdxl|flux|dall-e|imagen|veo|sora|xtts|orpheus|chatterbox"
    r"|parakeet|canary|wav2vec|musicgen|qwen-image|gpt-image|wan|hunyuan-?video|ltx-video|cogvideox?|moderation)"
    r"([-_.:/\d]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Unroutable:
    """An entry nothing can be sent to."""

    name: str
    path: str  # in the user's file
    reason: str
    remedy: str = ""  # the line to add, where one helps

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.name} ({self.path}): {self.reason}{remedy}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One server of one model. Without a price: `pointsman.default_price`, or one is assumed."""

    name: str
    path: str
    params: Tree
    info: Tree
    provider: str
    price: Price | None
    context_tokens: int | None
    max_output_tokens: int | None
    capabilities: tuple[str, ...] | None  # None: what the kind of backend can
    retired: str | None = None  # the day, YYYY-MM-DD
    dated: str = ""  # who says so
    lacks: frozenset[str] = frozenset()

    @property
    def model(self) -> str:
        """As litellm calls it, provider/model."""
        return str(self.params["model"])

    @property
    def api_base(self) -> str | None:
        """The address, where the entry gives one."""
        return _address(self.params)

    @property
    def groups(self) -> frozenset[str]:
        """Groups of access it is in."""
        return _texts(self.info.get("access_groups"), f"{self.path}.model_info.access_groups")

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the requests it is for."""
        return _texts(self.params.get("tags"), f"{self.path}.litellm_params.tags")

    @property
    def is_own(self) -> bool:
        """Whether it is a server of one's own, which nobody but its owner can price."""
        return _is_own(self.provider, self.params)

    @property
    def is_local(self) -> bool:
        """Whether texts sent there stay on machines of one's own, as far as a file can tell: a proxy passes them on."""
        passes_on = self.provider == "litellm_proxy" or self.model.endswith("cloud")  # as Ollama marks such models
        return self.is_own and not passes_on and (self.api_base is None or _is_inside(self.params))

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every model whose name fits."""
        return STAR in self.name and STAR in self.model

    @property
    def is_direct(self) -> bool:
        """Whether an OpenAI-compatible server stands at its address, with its API under /v1."""
        if self.provider not in DIRECT or self.api_base is None:
            return False
        try:
            path = urlsplit(self.api_base).path.rstrip("/")
        except ValueError:  # no address: the backend that is made of it says so
            path = ""
        return not path or path.endswith("/v1")

    def gone(self) -> Unroutable:
        """What is said of it from the day it is retired."""
        remedy = f"add {self.path}.model_info: {{deprecation_date: 2099-12-31}} where it still answers"
        return Unroutable(self.name, self.path, f"{self.model} was retired on {self.retired} ({self.dated})", remedy)

    def upstream(self, *, direct: bool) -> str:
        """The name the engine knows the model by: without the provider where it is called directly."""
        provider, _, rest = self.model.partition("/")
        return rest if direct and provider in DIRECT and rest else self.model


def read_entry(
    entry: object, path: str, env: Mapping[str, str], look: Look, is_provider: Callable[[str], bool]
) -> Entry | Unroutable:
    """One entry of the list. Raises: SettingsError where it is no entry of LiteLLM's at all."""
    name = re.sub(r"[\s,|]+", "-", _shape(entry, path))
    try:
        filled, _ = source.substitute(entry, env, litellm=True)
    except SettingsError as error:
        key, _, why = error.message.partition(": ")
        return Unroutable(name, path, f"{path}.{key}: {why.partition(', expected')[0]}")
    beside = {key: filled[key] for key in ENTRY_LIMITS if key in filled}
    params, info = numbers({**beside, **filled["litellm_params"]}), numbers(filled.get("model_info") or {})
    provider = str(params.get("custom_llm_provider") or str(params["model"]).partition("/")[0])
    if provider in _ADDRESSED | _HAS_A_PLACE and not _address(params):
        params["api_base"] = env.get(f"{provider.removesuffix('_chat').upper()}_API_BASE")
    if (shut := shut_by(info, path, env)) is not None:
        return Unroutable(name, path, shut.why, shut.remedy)
    if (nowhere := _nowhere(name, path, params, provider)) is not None:
        return nowhere
    is_own = _is_own(provider, params)
    known = None
    if STAR not in params["model"]:
        named = str(info.get("base_model") or params.get("base_model") or params["model"])
        named = named.removeprefix("litellm_proxy/")  # what is behind a proxy is priced by the name it has there
        known = _look_up(look, named, is_own=is_own)
    if provider in _OWN_KEYS and _address(params) and not params.get("api_key"):
        params["api_key"] = env.get(_OWN_KEYS[provider])
    said = {**params, **{key: value for key, value in info.items() if value is not None}}
    said["mode"] = _MODES.get(str(said.get("mode")), said.get("mode"))
    names = f"{name}/{params['model']}"
    mode = _not_text(said, known, names)
    if mode is not None:
        return Unroutable(name, path, f"it is no model of text ({mode}); this gateway has no API for it")
    entry_price = _price(said, known, path)
    is_any = STAR in params["model"] and (provider == STAR or is_provider(provider))  # priced once one is named
    if entry_price is None and not is_own and not is_any:
        return Unroutable(name, path, *_unpriced(params, provider, path, is_provider))
    return Entry(
        name=name,
        path=path,
        params=params,
        info=info,
        provider=provider,
        price=entry_price,
        context_tokens=_count(said, "max_input_tokens", path) or (known.context_tokens if known else None),
        max_output_tokens=_longest(said, info, known, path),
        capabilities=_capabilities(said, known, names, is_own=is_own or is_any),
        retired=_retires(params, info, known, path, is_own=is_own),
        dated="the file's own date" if info.get("deprecation_date") else "by litellm's cost map",
        lacks=_lacks(said, known.lacks if known and not is_own else frozenset()),
    )


def _nowhere(name: str, path: str, params: Tree, provider: str) -> Unroutable | None:
    """Of an entry that cannot be called, whatever its model costs."""
    if (many := _stars(name, params["model"])) is not None:
        return Unroutable(name, path, many)
    if provider in _ADDRESSED and not _address(params):
        return Unroutable(name, path, "it has no address", f"add {path}.litellm_params: {{api_base: http://…/v1}}")
    if provider == "auto_router":
        remedy = f"add pointsman.model_map: {{{name}: auto}}"
        return Unroutable(name, path, "LiteLLM's own router is not run here", remedy)
    return None


def _texts(value: object, path: str) -> frozenset[str]:
    """A list of names; one alone may stand for it. Raises: SettingsError."""
    each = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(each, list) or not all(isinstance(one, str) and one for one in each):
        raise SettingsError(f"{path}: got {str(value)[:80]!r}, expected a list of names", param=path)
    return frozenset(each)


def numbers(given: Mapping[str, Any]) -> Tree:
    """The mapping with its numbers as such, also where they are quoted or come from the environment."""
    return {key: numeral(value) if key in _NUMBERS else value for key, value in given.items()}


def numeral(value: Any) -> Any:
    """A text of digits as its number; anything else as it is."""
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            return kind(value) if isinstance(value, str) else value
    return value


def _address(params: Tree) -> str | None:
    given = params.get("api_base") or params.get("base_url")
    return str(given) if given else None


def _is_own(provider: str, params: Tree) -> bool:
    placed = provider in _HAS_A_PLACE or _address(params) is not None
    return (provider in OWN_MACHINES and placed) or (provider in _ALSO_INSIDE and _is_inside(params))


def _is_inside(params: Tree) -> bool:
    """Whether its address can only be on a network of one's own."""
    address = _address(params)
    with suppress(ValueError):  # no address: the backend that is made of it says so
        return address is not None and is_private(address)
    return False


def _look_up(look: Look, model: str, *, is_own: bool) -> Listed | None:
    """A server of one's own runs without the extra `providers`, and so without the map."""
    try:
        return look(model)
    except SettingsError:
        if is_own:
            return None
        raise


def _stars(name: str, model: str) -> str | None:
    """What is wrong with the stars of an entry."""
    if STAR in model and STAR not in name:
        return f"{model!r} stands for many models and {name!r} for one; write model_name: {model}"
    return (
        f"{name!r} has several stars, and one is understood" if max(name.count(STAR), model.count(STAR)) > 1 else None
    )


def _shape(entry: object, path: str) -> str:
    """The entry's name. Raises: SettingsError."""
    expected = "missing, expected {model_name, litellm_params: {model, …}}"
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not entry.get("model_name"):
        raise SettingsError(f"{path}.model_name: {expected}", param=path)
    if not params:
        raise SettingsError(f"{path}.litellm_params: {expected}", param=path)
    if not isinstance(params, dict) or not isinstance(params.get("model"), str):
        raise SettingsError(f"{path}.litellm_params.model: missing, expected provider/model", param=path)
    info = entry.get("model_info")
    if info is not None and not isinstance(info, dict):
        raise SettingsError(f"{path}.model_info: got {type(info).__name__}, expected a mapping", param=path)
    return str(entry["model_name"])


def _not_text(said: Tree, known: Listed | None, model: str) -> str | None:
    """The mode of a model that makes images, sound or something else; None where it reads and writes text.

    The map is believed before the file: a file may leave the mode out, or call a video model an image model.
    """
    modes = [mode for mode in (known.mode if known else None, said.get("mode")) if mode]
    for mode in modes:
        if mode not in _CHATS | {"completion", "embedding"}:
            return str(mode)
    looks = _SPEAKS.search(model)
    return f"by its name, {looks[2]}" if not modes and looks else None


def _capabilities(said: Tree, known: Listed | None, model: str, *, is_own: bool) -> tuple[str, ...] | None:
    modes = {mode for mode in (known.mode if known else None, said.get("mode")) if mode}
    if "embedding" in modes or (not modes and _EMBEDS.search(model)):
        return ("embeddings",)
    if "completion" in modes:
        return ("completions", "logprobs")
    if is_own:
        if not any(key in said for key in _SUPPORTS):
            return None
        tools = ("tools",) if is_true(said.get("supports_function_calling", True)) else ()
        return (*_ENGINE, *tools, *(("vision",) if is_true(said.get("supports_vision", False)) else ()))
    able = set(known.abilities or {"tools"}) if known else {"tools"}
    for key, ability in _SUPPORTS.items():
        if key in said:
            (able.add if is_true(said[key]) else able.discard)(ability)
    return (*_PROVIDER, *sorted(able))


def _lacks(said: Tree, lacks: frozenset[str]) -> frozenset[str]:
    """Features that the map says nothing of, less those that the file says the model has, and what it denies."""
    for feature, keys in FEATURES.items():
        if values := [said[key] for key in keys if key in said]:
            lacks = lacks - {feature} if any(map(is_true, values)) else lacks | {feature}
    return lacks


def _price(said: Tree, known: Listed | None, path: str) -> Price | None:
    """What the file says laid over what the map says; None unless both plain prices are known."""
    given = {key: _usd(value, f"{path}.{key}") for key, value in said.items() if is_price(key) and value is not None}
    if known is not None and known.price is not None and not given:
        return known.price_at([(None, said)])
    mode = said.get("mode") or (known.mode if known else None)
    return price_in({**(known.costs if known else {}), **given}, free=FREE.get(str(mode), frozenset()))


def _unpriced(params: Tree, provider: str, path: str, is_provider: Callable[[str], bool]) -> tuple[str, str]:
    """(reason, the line to add)"""
    costs = "input_cost_per_token: …, output_cost_per_token: …"
    if not is_provider(provider) and "/" in params["model"]:
        return f"litellm has no provider {provider!r}, and custom providers do not run here", ""
    if "/" not in params["model"] and "custom_llm_provider" not in params:
        return (
            f"litellm's cost map does not know {params['model']!r}",
            f"write {path}.litellm_params.model: provider/model, and its price where that is not known: "
            f"{path}.model_info: {{{costs}}}",
        )
    base = " or base_model: azure/…" if provider.startswith("azure") else ""
    return f"litellm's cost map has no price for {params['model']!r}", f"add {path}.model_info: {{{costs}}}{base}"


def _usd(value: object, path: str) -> float:
    try:
        price = float(str(value))
        if 0 <= price < 1:
            return price
    except ValueError:
        pass
    raise SettingsError(f"{path}: got {value!r}, expected USD per token such as 0.0000025", param=path)


def _retires(params: Tree, info: Tree, known: Listed | None, path: str, *, is_own: bool) -> str | None:
    """The day a provider takes the model away: the file's, else the map's, which knows nothing of one's own servers."""
    given = info.get("deprecation_date")
    if given is None:
        return None if known is None or is_own or _is_inside(params) else known.retires
    try:
        return date.fromisoformat(str(given)).isoformat()
    except ValueError:
        key = f"{path}.model_info.deprecation_date"
        raise SettingsError(f"{key}: got {str(given)[:80]!r}, expected a day such as 2027-12-31", param=key) from None


def _longest(said: Tree, info: Tree, known: Listed | None, path: str) -> int | None:
    """Tokens of the longest answer; files say it in the old way too."""
    stated = _count(said, "max_output_tokens", path) or (known.max_output_tokens if known else None)
    return stated or _count(info, "max_tokens", path)


def _count(said: Tree, key: str, path: str) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**40:
        raise SettingsError(f"{path}.{key}: got {value!r}, expected a number of tokens", param=path)
    return value
