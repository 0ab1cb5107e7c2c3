"""One function for each thing settings describe: backends, embedders, policies, keys.

Heavy libraries are imported where a setting asks for them and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.engine.service import EmbeddedModel
from backends.anyprec.errors import AnyprecError
from backends.breaker import BreakerRule
from backends.embedded import EmbeddedBackend
from backends.embedders.cache import CachedEmbedder
from backends.embedders.hashing import HashingEmbedder
from backends.embedders.openai import LIMITS, OpenAIEmbedder
from backends.embedders.sentence import SentenceEmbedder
from backends.embedders.static import StaticEmbedder
from backends.litellm import LiteLLMBackend
from backends.openai import OpenAIBackend
from backends.pool import Replica, Replicas, replica_of
from backends.renamed import Renamed
from backends.scripted import Line, Scripted, always
from backends.types import Backend, Embedder, Limits
from policies import registry as named
from policies.types import Arm, History, StoredPolicy
from router.errors import SettingsError
from router.learning.refit_worker import State, refit_aside, refit_elsewhere
from router.learning.spaces import Spaces, secret_of
from router.ports import Archive
from router.settings import Settings, embedder_sections, sections
from router.settings import engine_sections as engines
from router.settings.extras import install_line
from router.settings.paths import spaces_path

if TYPE_CHECKING:
    from backends.family.catalogue import Candidate


def build_backend(name: str, section: engines.Backend) -> Replicas:
    """The backend of one section of settings, behind breakers and caps. Raises: SettingsError."""
    return Replicas(list(_replicas(name, section)), name=name, attempts=section.attempts)


def _replicas(name: str, section: engines.Backend) -> Iterator[Replica]:
    rule = BreakerRule(failures=section.breaker.failures, ban_s=section.breaker.open_s)
    usual: dict[str, Any] = {"clock": time.monotonic, "rule": rule, "most": section.max_concurrency}
    if isinstance(section, engines.VllmSection | engines.LitellmSection):
        for label, each in section.labelled(name):
            engine = _openai(name, section, each) if section.kind == "vllm" else _litellm(name, section, each)
            own = {"weight": each.weight, "context_tokens": each.context_tokens, "rank": each.order, **usual}
            own["tags"] = None if not section.tags else each.tags or frozenset()
            yield replica_of(_named(engine, each), name=label, **own)
    elif isinstance(section, engines.EmbeddedSection):
        yield replica_of(_embedded(name, section), name=name, **usual)
    else:
        yield replica_of(Scripted(always(Line(text=section.text)), name=name), name=name, **usual)


def _embedded(name: str, section: engines.EmbeddedSection) -> EmbeddedBackend:
    try:
        return EmbeddedBackend(section.stores or _weights(), name=name, queue=section.queue)
    except AnyprecError as error:
        raise SettingsError(f"backends.{name}.stores: {error}", param=f"backends.{name}.stores") from error


def _weights() -> Mapping[str, Path]:
    from backends.family.catalogue import WEIGHTS  # noqa: PLC0415  (the family is looked for where it is configured)

    return WEIGHTS


def family() -> tuple[Candidate, ...]:
    """The candidates of the packaged family, cheapest first."""
    from backends.family.catalogue import CATALOGUE  # noqa: PLC0415

    return CATALOGUE


def models_of(engine: Backend) -> list[EmbeddedModel]:
    """What an embedded engine offers; nothing where it is another kind of engine."""
    return engine.models() if isinstance(engine, EmbeddedBackend) else []


def _named(engine: Backend, replica: engines.ReplicaSection) -> Backend:
    return engine if replica.upstream is None else Renamed(engine, replica.upstream)


def _openai(name: str, section: engines.VllmSection, replica: engines.ReplicaSection) -> OpenAIBackend:
    return OpenAIBackend(
        str(replica.url),
        name=name,
        api_key=_secret(replica),
        headers={key: value.get_secret_value() for key, value in section.headers.items()},
        limits=_limits(section),
    )


def _litellm(name: str, section: engines.LitellmSection, replica: engines.ReplicaSection) -> LiteLLMBackend:
    base = None if replica.url is None else str(replica.url)
    try:
        return LiteLLMBackend(
            name=name, api_key=_secret(replica), api_base=base, options=replica.params, limits=_limits(section)
        )
    except ImportError as error:
        raise SettingsError(
            f"backends.{name}: {error}: {install_line(['providers'])}", param=f"backends.{name}.kind"
        ) from error


def _secret(replica: engines.ReplicaSection) -> str | None:
    return replica.api_key.get_secret_value() if replica.api_key else None


def _limits(section: engines.VllmSection | engines.LitellmSection) -> Limits:
    waits = section.timeouts
    return Limits(connect_s=waits.connect_s, first_byte_s=waits.first_byte_s, idle_s=waits.idle_s)


async def build_embedder(settings: Settings, archive: Archive) -> tuple[Embedder, Spaces | None]:
    """The embedder of settings behind its cache, and what fits it, where it can be. Raises: SettingsError where an
    extra is missing, StoreUnavailable."""
    section, log = settings.embedder, settings.log
    is_fitted = isinstance(section, embedder_sections.HashingSection) and log.enabled and log.keep_features
    key = b"" if not is_fitted else _features_key(log) or await secret_of(archive)
    try:
        embedder = _embedder(section, key)
    except ImportError as error:
        raise SettingsError(f"embedder: {error}: {install_line([section.kind])}", param="embedder.kind") from error
    cached = CachedEmbedder(embedder, most=section.cache) if section.cache else None
    asked = embedder if cached is None else cached  # an empty cache is false
    if not is_fitted or not isinstance(embedder, HashingEmbedder):
        return asked, None
    forget = (lambda: None) if cached is None else cached.clear
    folder = spaces_path(settings)
    return asked, Spaces(embedder, archive, folder=folder, most=log.feature_texts, forget=forget)


def _features_key(log: sections.Log) -> bytes:
    return log.features_key.get_secret_value().encode()[:64] if log.features_key else b""


def _embedder(section: embedder_sections.Embedder, hashed_with: bytes) -> Embedder:
    if isinstance(section, embedder_sections.HashingSection):
        return HashingEmbedder(section.dim, key=hashed_with)
    if isinstance(section, embedder_sections.StaticSection):
        return StaticEmbedder(section.model)
    if isinstance(section, embedder_sections.SentenceSection):
        return SentenceEmbedder(section.model)
    key = section.api_key.get_secret_value() if section.api_key else None
    return OpenAIEmbedder(
        OpenAIBackend(str(section.url), name=f"embedder {section.model}", api_key=key, limits=LIMITS),
        model=section.model,
        dim=section.dim,
        window_s=section.wait_ms / 1000,
        batch=section.batch,
        is_local=section.is_local,
    )


def features_of(settings: Settings) -> Callable[[str], NDArray[np.float32]] | None:
    """What computes a query's surface features, where a policy that may be asked makes use of them."""
    return HashingEmbedder(16).features if "paced" in settings.on_request() else None


SLOW_TO_REFIT = frozenset({"paced"})  # seconds rather than milliseconds


def build_policies(settings: Settings, arms: Sequence[Arm]) -> dict[str, StoredPolicy]:
    """The default policy and those with options; others are built when a request names them. Raises: SettingsError."""
    calibrated = [named.ESCALATION] if any(each.kind == "escalate" for each in settings.programs.values()) else []
    names = dict.fromkeys([settings.policy.name, *settings.policy.options, *calibrated])
    try:
        return {name: named.build(name, arms, options_of(settings, name)) for name in names}
    except ValueError as error:
        raise SettingsError(f"policy: {error}", param="policy.options") from error


def options_of(settings: Settings, name: str) -> Mapping[str, object]:
    """What the settings say of a policy, beyond its defaults. Raises: ValueError where there is none of that name."""
    known, when_short = named.options_of(name), settings.budgets.when_short
    short = {"when_short": when_short} if known.get("when_short", when_short) != when_short else {}
    return {**short, **settings.policy.options_of(name)}


@dataclass(frozen=True, slots=True)
class SettingsWorkshop:
    """Policies as the settings have them, over the arms of now. See learning.follower.Workshop."""

    settings: Settings
    arms: Callable[[], Sequence[Arm]]

    def build(self, name: str) -> StoredPolicy:
        """See Workshop.build."""
        return named.build(name, self.arms(), self.options_of(name))

    def options_of(self, name: str) -> Mapping[str, object]:
        """See Workshop.options_of."""
        return options_of(self.settings, name)

    async def refit(self, name: str, state: State, history: History) -> State:
        """See Workshop.refit."""
        refit = refit_elsewhere if name in SLOW_TO_REFIT else refit_aside
        return await refit(name, self.options_of(name), state=state, history=history)
