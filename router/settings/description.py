"""Says in plain text what some settings would run. Never shows a secret."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from router.settings.document import Settings
from router.settings.engine_sections import Backend, EmbeddedSection, LitellmSection, VllmSection
from router.settings.sections import TenantSection
from router.types import Model, NanoUsd, show_usd


def describe(settings: Settings) -> str:
    """What would run, a line each thing."""
    return "\n".join(_lines(settings))


def _lines(settings: Settings) -> Iterator[str]:
    server = settings.server
    yield f"listens   http://{server.host}:{server.port}, {_many(server.workers, 'worker')}"
    yield f"store     {_store(settings)}"
    yield f"callers   {_callers(settings)}"
    embedder = settings.embedder
    yield f"embedder  {embedder.kind} {getattr(embedder, 'model', '') or getattr(embedder, 'dim', '')}"
    options = settings.policy.options_of(settings.policy.name)
    with_options = f" with {', '.join(f'{key}={value}' for key, value in options.items())}" if options else ""
    yield f"policy    {settings.policy.name}{with_options}, preference {settings.preference.default:g}"
    for name, backend in settings.backends.items():
        yield f"backend   {name}: {_backend(backend)}"
    for model in settings.candidates():
        yield f"model     {_model(model)}"
        yield from (f"price     {model.name}: {unknown}" for unknown in _unknown_parts(model))
    for each in settings.wildcards:
        yield f"wildcard  {each.name}: {each.upstream or each.name} on {each.backend}, priced by litellm's cost map"
    for name, tenant in settings.tenants.items():
        yield f"tenant    {name}: {_tenant(tenant)}"
    for name, shared in settings.model_budgets.items():
        yield f"budget    {name}: {shared.budget} for {', '.join(shared.models or ('every model',))}"
    yield from (f"name      {name}: {meant}" for name, meant in settings.model_map.items())
    if settings.unknown_model is not None:
        yield f"name      any other: {settings.unknown_model}"
    yield from (f"not routable  {each}" for each in settings.unroutable)
    yield from (f"note      {note}" for note in settings.notes)


def _store(settings: Settings) -> str:
    if settings.store.redis is None:
        return f"SQLite {settings.store.sqlite_path(settings.state_dir)}"
    parts = urlsplit(settings.store.redis.get_secret_value())
    return f"Redis {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _callers(settings: Settings) -> str:
    who = "need a key" if settings.auth.required else f"need no key and are tenant {settings.auth.tenant}"
    return f"{who}; the admin API has {'a key' if settings.auth.admin_key else 'no key and is closed'}"


def _backend(backend: Backend) -> str:
    where = "local" if backend.is_local else "remote"
    finds = ", discovers models" if backend.discovers else ""
    if isinstance(backend, VllmSection | LitellmSection):
        addresses = (
            ", ".join(shown_address(each.url) for each in backend.replicas if each.url) or "the provider's address"
        )
        return f"{backend.kind}, {where}, {addresses}{finds}"
    if isinstance(backend, EmbeddedSection):
        stores = ", ".join(f"{name} {path}" for name, path in backend.stores.items()) or "the packaged family"
        return f"{backend.kind}, {where}, {stores}{finds}"
    return f"{backend.kind}, {where}"


def shown_address(url: str) -> str:
    """An address without a password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _model(model: Model) -> str:
    price = f"{show_usd(model.price.prompt)} / {show_usd(model.price.completion)} USD per million tokens"
    drains = ", draining" if model.draining else ""
    return f"{model.name}: {model.upstream} on {model.backend}, {price}, {model.context_tokens} tokens{drains}"


_ABILITY = {"audio_prompt": "audio", "audio_completion": "audio", "image_prompt": "vision", "reasoning": "reasoning"}


def _unknown_parts(model: Model) -> Iterator[str]:
    """Kinds of tokens that the model may report and nobody prices, with what they are charged as."""
    price, local = model.price, not (model.price.prompt or model.price.completion)
    if local or model.program is not None:
        return
    lacking = model.lacks | ({"vision"} - model.capabilities)
    for side, plain, parts in (
        ("prompt", price.prompt, ("cached", "audio_prompt", "image_prompt")),
        ("completion", price.completion, ("reasoning", "audio_completion")),
    ):
        missing = [name for name in parts if price.amounts[name] is None and _ABILITY.get(name) not in lacking]
        if missing:
            yield f"no price of {', '.join(missing)}: as {side} tokens, {show_usd(plain)}"
    minutes, hour = (show_usd(NanoUsd(each(writes=True))) for each in (price.minutes, price.hour))
    if price.cache_write is None:
        yield f"no price of cache_write: five quarters of the prompt where a request asks for it, {minutes}"
    if price.cache_write_1h is None:
        yield f"no price of cache_write_1h: as the more expensive of cache_write and twice the prompt, {hour}"


def _tenant(tenant: TenantSection) -> str:
    budgets = ", ".join(map(str, tenant.budgets)) or "no budget"
    return f"{budgets}, {_many(len(tenant.keys), 'key')}"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
