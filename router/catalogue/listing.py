"""Which models may be chosen from: those the settings list and those the backends tell of themselves.

A backend that does not answer at the start only lacks what it would have told; it is asked again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backends.anyprec.names import WIDTH_KEY
from backends.discovery import Found
from backends.pool import Replicas
from policies.priors import width_loss
from router.catalogue.admission import Admissions
from router.catalogue.factories import build_backend, family, models_of
from router.catalogue.foretelling import with_foretold
from router.catalogue.price_overrides import PriceOverrides
from router.gateway.types import Catalogue
from router.gateway.wildcards import Wildcards
from router.programs.factory import program_models
from router.settings import Settings
from router.settings.abilities import CAPABILITIES
from router.settings.engine_sections import EmbeddedSection, VllmSection
from router.settings.listed import priced_under
from router.settings.paths import admissions_path
from router.stores.keys import RecordStore
from router.types import NANO_PER_USD, Model, NanoUsd, Price

if TYPE_CHECKING:
    from backends.family.catalogue import Candidate

FULL = 0.97  # of a KV cache


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every backend that is running."""

    settings: Settings
    backends: Mapping[str, Replicas]
    wildcards: Wildcards
    prices: PriceOverrides
    admissions: Admissions

    async def refresh(self, but: Collection[str] = (), within_s: float | None = None) -> None:
        """Ask every backend `but` these how it is, and the store for prices and admissions. Never raises.

        Whoever takes longer than `within_s` is asked on, beside the next refresh: nobody waits for another's silence.
        """
        looks = [look for name, backend in self.backends.items() if name not in but for look in backend.look()]
        await asyncio.gather(self.prices.refresh(), self.admissions.refresh())
        if looks:
            await asyncio.wait(looks, timeout=within_s)

    def unknown(self) -> set[str]:
        """Names of backends of whose engines none has answered, or failed to, since the last look began."""
        return {name for name, backend in self.backends.items() if backend.is_looked_at}

    def down(self) -> set[str]:
        """Names of backends that do not answer."""
        return {name for name, backend in self.backends.items() if not backend.is_up}

    def spared(self) -> dict[str, str]:
        """Backends to use only where there is no other, and why: all their engines fail, or are full."""
        return {name: why for name, backend in self.backends.items() if (why := _spared(backend)) is not None}

    def catalogue(self) -> Catalogue:
        """Every candidate there is now, cheapest first; a variant nobody admitted says so.

        Raises: SettingsError where nothing prices one.
        """
        models = tuple([self._gated(model) for model in self.every_model()])
        return Catalogue(models + self._programs(models), self.backends, self.wildcards)

    def _programs(self, models: tuple[Model, ...]) -> tuple[Model, ...]:
        """Of the settings, over these models. Raises: SettingsError."""
        programs, settings = self.settings.programs, self.settings
        if not programs:
            return ()
        listed_later = any(isinstance(each, VllmSection) and each.discover for each in settings.backends.values())
        return program_models(programs, models, settings.aliases, is_whole=not listed_later)

    def _gated(self, model: Model) -> Model:
        packaged = isinstance(section := self.settings.backends[model.backend], EmbeddedSection) and not section.stores
        is_variant = model.bits is not None and model.parent is not None and not packaged
        if not is_variant or not self.settings.admission.required or self.admissions.admits(model.name):
            return model
        return replace(model, admitted=False)

    def every_model(self) -> tuple[Model, ...]:
        """Every model there is, cheapest first, whether admitted or not. Raises: SettingsError."""
        models = {model.name: model for model in self.settings.candidates()}
        for name, section in self.settings.backends.items():
            if isinstance(section, EmbeddedSection) and section.discover:
                models |= {model.name: model for model in self._embedded(name, section)}
            elif isinstance(section, VllmSection):
                models |= {model.name: model for model in self._discovered(name, section)}
        known = with_foretold([self.prices.over(model, self.settings) for model in models.values()])
        return tuple(sorted(known, key=lambda m: (m.price.prompt + m.price.completion, m.name)))

    def _discovered(self, backend: str, section: VllmSection) -> Iterable[Model]:
        """What the engines list; of engines that are not to be discovered only what the settings list too."""
        for found in self.backends[backend].models:
            upstream = _upstream(found)
            if section.discover or self.settings.lists(backend, upstream, found.name, found.bits):
                yield self.settings.discovered(backend, upstream, price=self.prices.of(found.name), **_facts(found))

    def _embedded(self, backend: str, section: EmbeddedSection) -> Iterable[Model]:
        if not section.stores:
            return [self._packaged(backend, candidate) for candidate in family()]
        engine = self.backends[backend].replicas[0].backend
        return [
            self.settings.discovered(
                backend,
                found.name,
                context_tokens=found.context_tokens,
                parent=found.parent,
                bits=found.bits,
                parameters=float(found.parameters),
                bytes_per_token=1.0,
                width_loss=None if found.distance is None else width_loss(found.distance),
            )
            for found in models_of(engine)
        ]

    def _packaged(self, backend: str, candidate: Candidate) -> Model:
        return self.settings.discovered(
            backend,
            candidate.name,
            price=Price(_nano(candidate.prompt_usd), _nano(candidate.completion_usd)),
            context_tokens=candidate.context_tokens,
            parent=candidate.parent,
            bits=candidate.bits,
            parameters=candidate.parameters,
            quality=candidate.quality,
            bytes_per_token=1.0,
        )


async def fleet_of(settings: Settings, old: Fleet | None = None, records: RecordStore | None = None) -> Fleet:
    """The backends of these settings; one whose section did not change goes on running as it is.

    `records`: the store that has prices and admissions of all gateways.
    Raises: SettingsError, also where the file has begun to price what the admin API does.
    """
    prices = PriceOverrides(records) if old is None else old.prices
    admissions = Admissions(admissions_path(settings), records) if old is None else old.admissions
    if old is not None:
        await prices.refresh()  # another gateway may have changed them since this one looked
        prices.must_be_alone(settings, old.settings)
    kept = {
        name: old.backends[name]
        for name, section in settings.backends.items()
        if old is not None and old.settings.backends.get(name) == section
    }
    backends = {name: kept.get(name) or build_backend(name, section) for name, section in settings.backends.items()}
    fleet = Fleet(
        settings,
        backends,
        Wildcards(settings, lambda name: backends[name].models, priced_under),
        prices,
        admissions,
    )
    await fleet.refresh(but=kept)
    return fleet


def _upstream(found: Found) -> str:
    """The name the engine is asked for: a width is asked for by its parent's."""
    return found.parent if found.bits is not None and found.parent else found.name


def _spared(backend: Replicas) -> str | None:
    """Why every engine of a backend is better left alone; None where one is not."""
    if backend.is_banned:
        return "its engines have failed again and again"
    if all(each.watch.load.waiting > 0 and each.watch.load.kv_usage > FULL for each in backend.replicas):
        return "its engines are full: requests wait and the KV cache has no room"
    return None


def _facts(found: Found) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": found.name, "parent": found.parent, "bits": found.bits}
    declared, can = found.declared, CAPABILITIES["vllm"]
    facts["lacks"] = declared.lacks
    facts["capabilities"] = declared.only or (can | {"vision"} if "images" in declared.able else can)
    if found.context_tokens is not None:
        facts["context_tokens"] = found.context_tokens
    if found.bits is not None:
        facts["extra_body"] = {"vllm_xargs": {WIDTH_KEY: found.bits}}
    return facts


def _nano(usd: float) -> NanoUsd:
    return NanoUsd(round(usd * NANO_PER_USD))
