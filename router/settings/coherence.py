"""What no single key can show to be wrong: names that point nowhere, twins, models without a price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from policies.registry import NAMES, options_of
from policies.stored_answers import STORED
from router.errors import SettingsError
from router.settings.access_groups import groups_of
from router.settings.complaints import Fault
from router.settings.document import Settings
from router.settings.engine_sections import EmbeddedSection, LitellmSection, VllmSection
from router.settings.sections import TenantSection
from router.terms import Terms

_REDIS = ("redis://", "rediss://", "unix://", "redis+sentinel://", "redis+cluster://")


def faults(settings: Settings) -> Iterator[Fault]:
    """Everything that is wrong between sections, as (path, text)."""
    yield from _store(settings)
    yield from _backends(settings)
    yield from _models(settings)
    yield from _names(settings)
    yield from _programs(settings)
    yield from _policies(settings)
    yield from _tenants(settings)
    yield from _unknown_models(settings)
    if not settings.models and not any(each.discovers for each in settings.backends.values()):
        yield "models", "empty and no backend discovers any, expected at least one model"


def _store(settings: Settings) -> Iterator[Fault]:
    store = settings.store
    if store.sqlite and store.redis:
        yield "store", "got sqlite and redis, expected one of them"
    if store.redis and not _is_redis(store.redis.get_secret_value()):
        expected = f"an address that begins with {', '.join(_REDIS)}, and a port of 1 to 65535 or none"
        yield "store.redis", f"got a value not shown here, expected {expected}"


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.startswith(_REDIS) and (parts.scheme not in ("redis", "rediss") or parts.port != 0)
    except ValueError:  # brackets that hold no address, or a port that is none
        return False


def _backends(settings: Settings) -> Iterator[Fault]:
    for name, backend in settings.backends.items():
        path = f"backends.{name}"
        if isinstance(backend, VllmSection) and any(each.url is None for each in backend.replicas):
            yield path, "no address, expected url: http://… or urls: [http://…, …]"
        if isinstance(backend, VllmSection | LitellmSection) and backend.url and backend.urls:
            yield path, "got url and urls, expected one of them"
        if isinstance(backend, VllmSection) and any(each.params for each in backend.replicas):
            yield f"{path}.params", "parameters are for litellm only, expected none (see models[…].extra_body)"
        for model, folder in backend.stores.items() if isinstance(backend, EmbeddedSection) else ():
            if not folder.is_dir():
                yield f"{path}.stores.{model}", f"got {str(folder)!r}, expected a folder that exists"


def _models(settings: Settings) -> Iterator[Fault]:
    names = Counter(each.name for each in settings.models)
    for number, model in enumerate(settings.models):
        path = f"models[{number}]"
        if names[model.name] > 1:
            yield (
                f"{path}.name",
                f"got {model.name!r} twice, expected names that differ (replicas go under one backend)",
            )
        if model.name == "auto" or model.name.startswith("auto:"):
            yield f"{path}.name", f"got {model.name!r}, expected a name that is not `auto`: the router answers to that"
        if model.name.startswith(STORED):
            yield f"{path}.name", f"got {model.name!r}, expected another name: stored answers are called so"
        try:
            backend = settings.backend_of(model)
        except SettingsError:
            yield f"{path}.backend", f"missing, expected one of {', '.join(settings.backends)}"
            continue
        if backend not in settings.backends:
            yield f"{path}.backend", f"got {backend!r}, expected one of {', '.join(settings.backends)}"
        elif not (model.is_wildcard or settings.price_of(model) or settings.backends[backend].discovers):
            yield f"{path}.price", "missing, expected {prompt, completion} in USD per million tokens, or default_price"


MOST_DEEP = 3  # programs within programs


def _programs(settings: Settings) -> Iterator[Fault]:
    """Programs that no start can run: of nobody, of themselves, or too deep."""
    models, programs = {each.name for each in settings.models}, settings.programs
    finds = any(each.discovers for each in settings.backends.values())
    usual = {"auto", *(f"auto:{name}" for name in settings.aliases)}
    for name, section in programs.items():
        if name in models | usual or name.startswith(("auto:", STORED)):
            yield f"programs.{name}", "already the name of a model or an alias, expected a name that nothing else has"
        for key, arm in section.arms():
            is_known = arm in usual or settings.is_known(arm) or (finds and not arm.startswith("auto:"))
            if not is_known:
                yield f"programs.{name}.{key}", f"got {arm!r}, expected a model, a program, auto or auto:NAME"
        depth = _depth(settings, name, ())
        if depth > MOST_DEEP:
            why = "a program of itself" if depth == _ENDLESS else f"{depth} programs deep"
            yield f"programs.{name}", f"{why}, expected at most {MOST_DEEP} within each other and no circle"


_ENDLESS = 1 << 20


def _depth(settings: Settings, name: str, above: tuple[str, ...]) -> int:
    """How many programs stand within each other, from this one down; _ENDLESS in a circle."""
    if name in above:
        return _ENDLESS
    if (section := settings.programs.get(name)) is None:
        return 0
    return min(_ENDLESS, 1 + max(_depth(settings, arm, (*above, name)) for _, arm in section.arms()))


def _names(settings: Settings) -> Iterator[Fault]:
    """Names that stand for models, where no backend discovers any that the file does not list."""
    if any(each.discovers for each in settings.backends.values()):
        return
    known = {each.name for each in settings.models} | set(settings.programs)
    aliases = {"auto", *(f"auto:{name}" for name in settings.aliases)}
    for name, meant in settings.model_map.items():
        if name in known | aliases:
            yield f"model_map.{name}", "already the name of a model, expected a name that no model has"
        if not settings.is_known(meant) and meant not in aliases:
            yield f"model_map.{name}", f"got {meant!r}, expected a model's name, auto or auto:NAME"
    if settings.unknown_model is not None and not (
        settings.is_known(settings.unknown_model) or settings.unknown_model in aliases
    ):
        yield "unknown_model", f"got {settings.unknown_model!r}, expected a model's name, auto or auto:NAME"
    for field in ("fallbacks", "context_fallbacks"):
        for name, chain in getattr(settings, field).items():
            for each in chain:
                if not settings.is_known(each) or each == name:
                    yield f"{field}.{name}", f"got {each!r}, expected the names of other models"
    for name, shared in settings.model_budgets.items():
        for each in shared.models or ():
            if each in settings.programs or each not in known:
                yield f"model_budgets.{name}.models", f"got {each!r}, expected names of models"


def _policies(settings: Settings) -> Iterator[Fault]:
    used = {"policy.name": settings.policy.name}
    used |= {f"policy.on_request[{i}]": policy for i, policy in enumerate(settings.policy.on_request)}
    used |= {f"{path}.policy": terms.policy for path, terms in _terms(settings) if terms.policy}
    for path, policy in used.items():
        if policy not in NAMES:
            yield path, f"got {policy!r}, expected one of {', '.join(NAMES)}"
    for policy, options in settings.policy.options.items():
        if policy not in NAMES:
            yield f"policy.options.{policy}", f"unknown policy, expected one of {', '.join(NAMES)}"
            continue
        known = options_of(policy)
        for option in options:
            if option not in known:
                expected = f"one of {', '.join(known)}" if known else "none: it has no options"
                yield f"policy.options.{policy}.{option}", f"unknown option, expected {expected}"


def _tenants(settings: Settings) -> Iterator[Fault]:
    secrets = Counter(key.secret.get_secret_value() for each in settings.tenants.values() for key in each.keys)
    names = Counter(key.name for each in settings.tenants.values() for key in each.keys if key.name)
    teams = Counter(team for each in settings.tenants.values() for team in each.teams)
    for name, tenant in settings.tenants.items():
        for team in tenant.teams:
            if teams[team] > 1:
                yield (
                    f"tenants.{name}.teams.{team}",
                    "another tenant has a team of this name, expected names that differ",
                )
        for number, key in enumerate(tenant.keys):
            path = f"tenants.{name}.keys[{number}]"
            if secrets[key.secret.get_secret_value()] > 1:
                yield f"{path}.secret", "the same key is given twice, expected each key once"
            if key.name and names[key.name] > 1:
                yield f"{path}.name", f"got {key.name!r} twice, expected names that differ"
            yield from _team(path, key.team, tenant)


def _terms(settings: Settings) -> Iterator[tuple[str, Terms]]:
    """Everything that has terms, by its path."""
    for name, tenant in settings.tenants.items():
        path = f"tenants.{name}"
        yield path, tenant
        yield from ((f"{path}.teams.{team}", terms) for team, terms in tenant.teams.items())
        yield from ((f"{path}.keys[{number}]", key) for number, key in enumerate(tenant.keys))


def _team(path: str, team: str | None, tenant: TenantSection) -> Iterator[Fault]:
    if team is not None and team not in tenant.teams:
        known = ", ".join(tenant.teams) or "a team under the tenant's `teams`"
        yield f"{path}.team", f"got {team!r}, expected {known}"


def _unknown_models(settings: Settings) -> Iterator[Fault]:
    """Where a backend discovers models, their names are not known yet."""
    known = {each.name for each in settings.models} | set(settings.programs)
    if any(each.discovers for each in settings.backends.values()):
        return
    for path, terms in _terms(settings):
        models = (terms.allowed_models or frozenset()) - groups_of(settings.models)
        named = [(f"{path}.allowed_models", name) for name in sorted(models)]
        named += [(f"{path}.budgets[{n}].model", each.model) for n, each in enumerate(terms.budgets) if each.model]
        named += [(f"{path}.limits[{n}].model", each.model) for n, each in enumerate(terms.limits) if each.model]
        for where, name in named:
            if not settings.is_known(name):
                yield where, f"got {name!r}, expected names of models: {', '.join(sorted(known))}"
