"""The whole file in Pointsman's form, with the way back: which key of the user's file each key came from."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from router.errors import SettingsError
from router.settings import source
from router.settings.complaints import refuse
from router.settings.listed import Look
from router.settings.litellm_file.access import own_check, unguarded
from router.settings.litellm_file.entries import (
    ASSUMED_USD,
    ENTRY_LIMITS,
    Entry,
    Tree,
    Unroutable,
    numeral,
    read_entry,
)
from router.settings.litellm_file.groups import group, names_of, usable
from router.settings.litellm_file.money import ALL, shared, unkept
from router.settings.scalars import is_true
from router.wildcards import STAR, nearest

_SECTIONS = {
    "model_list",
    "pointsman",
    "general_settings",
    "router_settings",
    "litellm_settings",
    "environment_variables",
    "credential_list",
}
_BESIDE = ("router_settings", "litellm_settings")
_ENTRY = {"model_name", "litellm_params", "model_info", *ENTRY_LIMITS}
_CREDENTIAL = {"credential_name", "credential_values", "credential_info"}
_GENERAL = {"master_key", "default_model"}
_ROUTER = {
    *("num_retries", "timeout", "redis_url", "redis_host", "redis_port", "redis_password", "fallbacks"),
    *("context_window_fallbacks", "default_fallbacks", "model_group_alias", "provider_budget_config"),
    "enable_tag_filtering",
}
_LIBRARY = {
    *("num_retries", "request_timeout", "fallbacks", "context_window_fallbacks", "default_fallbacks", "default_model"),
    *("drop_params", "max_budget", "budget_duration", "model_group_alias"),
}
_CHAINS = {"fallbacks": "fallbacks", "context_window_fallbacks": "context_fallbacks"}
_TWICE = (  # what counts, and what says the same elsewhere
    ("router_settings.num_retries", "litellm_settings.num_retries"),
    ("router_settings.timeout", "litellm_settings.request_timeout"),
    ("router_settings.default_fallbacks", "litellm_settings.default_fallbacks"),
    ("general_settings.default_model", "litellm_settings.default_model"),
    *(("router_settings.redis_url", f"router_settings.redis_{key}") for key in ("host", "port", "password")),
)


@dataclass(frozen=True, slots=True)
class Translated:
    """The file in Pointsman's form. `origins`: the user's own path of each path that was translated."""

    tree: Tree
    notes: tuple[str, ...]
    unroutable: tuple[Unroutable, ...]
    origins: Mapping[str, str]
    renamed: Mapping[str, str]  # the user's own name of each name that cannot be one here


def is_litellm(tree: Mapping[str, Any]) -> bool:
    """Whether this is LiteLLM's form of a settings file."""
    return "model_list" in tree


def translate(
    tree: Tree, env: Mapping[str, str], look: Look, is_provider: Callable[[str], bool], *, today: str
) -> Translated:
    """`today` is YYYY-MM-DD. Raises: SettingsError for what is not LiteLLM's either and for unkept limits of money."""
    notes = [f"{key}: has no effect here" for key in sorted(set(tree) - _SECTIONS)]
    notes += [*_beside(tree["model_list"], "model_list", _ENTRY)]
    notes += [*_beside(tree.get("credential_list"), "credential_list", _CREDENTIAL)]
    if wrong := [*unkept(tree), *unguarded(tree)]:
        raise refuse(wrong)
    given = {key: str(value) for key, value in source.mapping_at(tree, "environment_variables").items()}
    env = ChainMap(given, env) if given else env  # type: ignore[arg-type]  # it is only read
    own = "is known to this file alone; a provider that reads it needs it in the gateway's environment"
    notes += [f"environment_variables.{key}: {own}" for key in given if f"os.environ/{key}" not in str(tree)]
    tree = {**tree, **{name: _filled(tree[name], env) for name in _BESIDE if tree.get(name)}}
    if "include" in tree:
        raise SettingsError("include: there is no folder to read files from", param="include")
    listed, unroutable = _entries(_credited(tree), env, look, is_provider)
    entries = [each for each in listed if each.retired is None or each.retired > today]
    unroutable += [each.gone() for each in listed if each not in entries]
    filters = is_true((tree.get("router_settings") or {}).get("enable_tag_filtering"))
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.name, []).append(entry)
    backends: Tree = {}
    models: list[Tree] = []
    for name, each in groups.items():
        backends[name], model = group(name, each, notes, filters=filters)
        models.append(model)
    general, used = _Sections(tree, env), notes
    translated = {"backends": backends, "models": models, **general.auth(used), **general.store()}
    general.waiting(backends)
    translated |= general.chains(list(groups), used)
    translated |= general.names(list(groups), used)
    if budgets := shared(tree, entries, notes):
        translated["model_budgets"] = budgets
    notes += list(general.unused(backends))
    own = source.substitute(source.mapping_at(tree, "pointsman"), env)[0]
    if "default_price" not in own:
        _assume(models, groups, notes)
    for key, value in own.items():
        translated[key] = _joined(translated.get(key), value)
    return Translated(
        translated,
        tuple(notes),
        tuple(unroutable),
        _origins(groups, tree),
        {**general.renamed, **_renamed(tree["model_list"])},
    )


def _beside(listed: object, section: str, known: set[str]) -> Iterator[str]:
    """What stands beside the keys that are known of each in a list."""
    for number, each in enumerate(listed if isinstance(listed, list) else ()):
        for key in sorted(map(str, set(each) - known)) if isinstance(each, dict) else ():
            yield f"{section}[{number}].{key}: has no effect here"


def _credited(tree: Tree) -> object:
    """The list of models, those that name a credential with its values filled in. Raises: SettingsError."""
    listed, given = tree["model_list"], tree.get("credential_list") or []
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        expected = "expected a list of {credential_name, credential_values}"
        raise SettingsError(f"credential_list: {expected}", param="credential_list")
    known = {each.get("credential_name"): each.get("credential_values") or {} for each in given}
    return [_filled_in(each, known) for each in listed] if known and isinstance(listed, list) else listed


def _filled_in(entry: Any, known: Mapping[Any, Any]) -> Any:
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    values = known.get(params.get("litellm_credential_name")) if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(values, dict):
        return entry
    own = {key: value for key, value in params.items() if key != "litellm_credential_name"}
    return {**entry, "litellm_params": {**values, **own}}


def _renamed(listed: list[Any]) -> dict[str, str]:
    names = [str(each["model_name"]) for each in listed]
    return {name: usable(name) for name in names if name != usable(name)}


def _entries(
    listed: object, env: Mapping[str, str], look: Look, is_provider: Callable[[str], bool]
) -> tuple[list[Entry], list[Unroutable]]:
    """(what can be called, what cannot)"""
    if not isinstance(listed, list) or not listed:
        raise SettingsError("model_list: expected a list of {model_name, litellm_params}", param="model_list")
    entries: list[Entry] = []
    unroutable: list[Unroutable] = []
    for number, each in enumerate(listed):
        for one in _accounts(each):
            found = read_entry(one, f"model_list[{number}]", env, look, is_provider)
            if isinstance(found, Entry):
                entries.append(found)
            else:
                unroutable.append(found)
    return entries, unroutable


def _accounts(entry: Any) -> Iterator[Any]:
    """An entry for each of its organizations, where it lists several."""
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    several = params.get("organization") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(several, list):
        yield entry
        return
    yield from ({**entry, "litellm_params": {**params, "organization": each}} for each in several)


class _Sections:
    """What stands beside the list. Only keys that are used are looked up in the environment."""

    def __init__(self, tree: Tree, env: Mapping[str, str]) -> None:
        self._env = env
        self.renamed: dict[str, str] = {}  # aliases that can be no key of a settings file
        self._said: set[str] = set()  # keys of general_settings of which more was said
        self._general = source.mapping_at(tree, "general_settings")
        self._router = source.mapping_at(tree, "router_settings")
        self._library = source.mapping_at(tree, "litellm_settings")
        self._aliases = {
            usable(alias): name
            for section, settings in (("router_settings", self._router), ("litellm_settings", self._library))
            for alias, target in source.mapping_at(settings, "model_group_alias", section).items()
            for name in names_of(target)[:1]
        }

    def auth(self, notes: list[str]) -> Tree:
        """The master key opens everything, as it does there; without one callers need no key."""
        master = self._value("general_settings", self._general, "master_key") or self._env.get("LITELLM_MASTER_KEY")
        if not master and (own := own_check(self._general)):
            self._said = {own}
            notes.append(f"general_settings.{own}: is not run here, so callers need a key of this gateway")
            return {}
        if not master:
            notes.append("general_settings.master_key: none, so callers need no key (as with LiteLLM)")
            return {"auth": {"required": False}}
        key = {"secret": master, "name": "master", "admin": True}
        return {"auth": {"admin_key": master}, "tenants": {"default": {"keys": [key]}}}

    def store(self) -> Tree:
        """Redis, where the router's settings name one."""
        if url := self._value("router_settings", self._router, "redis_url"):
            return {"store": {"redis": url}}
        if not (host := self._value("router_settings", self._router, "redis_host")):
            return {}
        password = quote(str(self._value("router_settings", self._router, "redis_password") or ""), safe="")
        port = self._value("router_settings", self._router, "redis_port") or 6379
        return {"store": {"redis": f"redis://{f':{password}@' if password else ''}{host}:{port}/0"}}

    def waiting(self, backends: Tree) -> None:
        """Retries, time limits and parameters that providers do not take."""
        retries = numeral(self._router.get("num_retries", self._library.get("num_retries")))
        timeout = numeral(self._router.get("timeout", self._library.get("request_timeout")))
        for backend in backends.values():
            if isinstance(retries, int):
                backend.setdefault("attempts", max(1, retries + 1))
            if timeout:
                backend.setdefault("timeouts", {"first_byte_s": timeout})
            if self._library.get("drop_params") and backend["kind"] == "litellm":
                backend["params"] = {"drop_params": True}

    def chains(self, known: list[str], notes: list[str]) -> Tree:
        """Which models are asked, in this order, when the one asked for by a name cannot answer.

        The name itself may be of an entry that cannot be called: its chain answers for it.
        """
        found: Tree = {field: {} for field in _CHAINS.values()}
        first: dict[tuple[str, str], str] = {}
        for key, field in _CHAINS.items():
            for section, settings in (("router_settings", self._router), ("litellm_settings", self._library)):
                if isinstance(settings.get(key), str):
                    notes.append(f"{section}.{key}: a text, expected a list of {{model: [others]}}; left out")
                for path, name, named in _pairs(settings.get(key), f"{section}.{key}"):
                    chain = [self._aliases.get(each, each) for each in names_of(named)]
                    usable = [each for each in chain if _is_known(each, known) and each != name]
                    notes += [*_of_chain(path, name, chain, usable, known), *_beside_names(named, path)]
                    if usable and found[field].setdefault(name, usable) is not usable:
                        notes.append(f"{path}: has no effect here beside {first[field, name]}")
                    first.setdefault((field, name), path)
        section = "router_settings" if self._router.get("default_fallbacks") else "litellm_settings"
        named = self._router.get("default_fallbacks") or self._library.get("default_fallbacks") or []
        default = [self._aliases.get(each, each) for each in names_of(named)]
        if missing := [each for each in default if not _is_known(each, known)]:
            notes.append(f"{section}.default_fallbacks: {', '.join(missing)} cannot be called here, left out")
        for name in known:
            if usable := [each for each in default if _is_known(each, known) and each != name]:
                found["fallbacks"].setdefault(name, usable)
        return found

    def names(self, known: list[str], notes: list[str]) -> Tree:
        """What other names stand for: aliases, and the default model for all that are unknown."""
        found: Tree = {}
        mapped: Tree = {}
        for section, settings in (("router_settings", self._router), ("litellm_settings", self._library)):
            aliases = source.mapping_at(settings, "model_group_alias", section)
            for alias, target in aliases.items():
                name, *others = names_of(target) or [""]
                path = f"{section}.model_group_alias.{alias}"
                notes += [*_beside_names(target, path)]
                notes += [f"{path}: {name} alone counts, not {', '.join(others)}"] if others else []
                if _is_known(name, known):
                    mapped[str(alias)] = name
                else:
                    notes.append(f"{path}: {name} cannot be called here, left out")
        if mapped:
            found["model_map"] = {alias: name for alias, name in mapped.items() if alias == usable(alias)}
            self.renamed = {alias: name for alias, name in mapped.items() if alias != usable(alias)}
        given = self._general.get("default_model") or self._library.get("default_model")
        default = usable(given) if given else None
        if default and _is_known(default, known):
            found["unknown_model"] = default
        elif default:
            notes.append(f"default_model: {default} cannot be called here, so unknown names are an error")
        return found

    def unused(self, backends: Tree) -> Iterator[str]:
        """Every key of these sections that has no counterpart, or says what another has said."""
        drops = {"drop_params"} if all(each["kind"] != "litellm" for each in backends.values()) else set()
        given: set[str] = set()
        for section, settings, used in (
            ("general_settings", self._general, _GENERAL | self._said),
            ("router_settings", self._router, _ROUTER),
            ("litellm_settings", self._library, _LIBRARY - drops),
        ):
            yield from (f"{section}.{key}: has no effect here" for key in sorted(set(settings) - used))
            given |= {f"{section}.{key}" for key, value in settings.items() if value}
        for counts, again in _TWICE:
            if {counts, again} <= given:
                yield f"{again}: has no effect here beside {counts}"

    def _value(self, section: str, settings: Tree, key: str) -> Any:
        """A key's value from the environment where it says so. Raises: SettingsError."""
        filled, _ = source.substitute({section: {key: settings.get(key)}}, self._env, litellm=True)
        return filled[section][key]


def _filled(node: Any, env: Mapping[str, str]) -> Any:
    """A section with what it takes from the environment; a variable that is not set stays as it is written."""
    if isinstance(node, dict):
        return {key: _filled(value, env) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, env) for value in node]
    name = node.removeprefix("os.environ/") if isinstance(node, str) else None
    return env[name] if name is not None and name != node and name in env else node


def _is_known(name: str, known: list[str]) -> bool:
    """Whether a name is an entry's, or fits the wildcard of one."""
    return name in known or nearest(known, name) is not None


def _pairs(chains: object, path: str) -> Iterator[tuple[str, str, object]]:
    """(path, model, others) of [{model: [others]}]"""
    for number, each in enumerate(chains if isinstance(chains, list) else [chains] if chains else []):
        for name, chain in each.items() if isinstance(each, dict) else ():
            yield f"{path}[{number}].{name}", usable(name), chain


def _of_chain(path: str, name: str, chain: list[str], usable: list[str], known: list[str]) -> Iterator[str]:
    """What of a chain cannot be called, and what then answers."""
    if not _is_known(name, known) and name != STAR:
        yield f"{path}: {name} cannot be called here{', so its chain answers for it' if usable else ''}"
    if missing := [each for each in chain if not _is_known(each, known)]:
        yield f"{path}: {', '.join(missing)} cannot be called here, left out"


def _beside_names(names: object, path: str) -> Iterator[str]:
    """What {model: NAME} holds beside the name."""
    for each in names if isinstance(names, list) else [names]:
        for key in sorted(map(str, set(each) - {"model"})) if isinstance(each, dict) else ():
            yield f"{path}.{key}: has no effect here"


def _joined(mine: object, added: object) -> object:
    if isinstance(mine, dict) and isinstance(added, dict):
        return {**mine, **added}
    return [*mine, *added] if isinstance(mine, list) and isinstance(added, list) else added


def _assume(models: list[Tree], groups: Mapping[str, list[Entry]], notes: list[str]) -> None:
    """Servers of one's own are seldom priced in this form; free would be a leak, so they get a price and a note."""
    for model in models:
        entry = groups[model["name"]][0]
        if "price" not in model and (entry.is_own or not entry.is_wildcard):
            price = {"prompt": ASSUMED_USD, "completion": ASSUMED_USD}
            model["unlisted_price" if entry.is_wildcard else "price"] = price
            notes.append(
                f"model {model['name']}: no price in the file, {ASSUMED_USD} USD per million tokens is assumed; "
                f"give model_info.input_cost_per_token and output_cost_per_token, or pointsman.default_price"
            )


def _origins(groups: Mapping[str, list[Entry]], tree: Tree) -> dict[str, str]:
    router, library = tree.get("router_settings") or {}, tree.get("litellm_settings") or {}
    aliases = (
        "router_settings"
        if router.get("model_group_alias") or not library.get("model_group_alias")
        else "litellm_settings"
    )
    origins = {"auth.admin_key": "general_settings.master_key", "tenants.default": "general_settings.master_key"}
    origins |= {
        "model_map": f"{aliases}.model_group_alias",
        "store.redis": f"router_settings.redis_{'url' if router.get('redis_url') else 'host'}",
        "model_budgets": "router_settings.provider_budget_config",
    }
    everybody = f"model_budgets.{ALL}.budget"
    origins |= {f"{everybody}.limit": "litellm_settings.max_budget", everybody: "litellm_settings.budget_duration"}
    for number, (name, entries) in enumerate(groups.items()):
        origins[f"models[{number}]"] = origins[f"backends.{name}"] = f"{entries[0].path}.litellm_params"
        for place, each in enumerate(entries):
            origins[f"backends.{name}.urls[{place}]"] = f"{each.path}.litellm_params"
            origins[f"backends.{name}.urls[{place}].url"] = f"{each.path}.litellm_params.api_base"
    return origins
