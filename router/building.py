"""One function for each thing settings describe: backends, embedders, policies, keys.

Heavy libraries are imported where a setting asks for them and nowhere else.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256

from backends.breaker import BreakerRule
from backends.embedders.cache import CachedEmbedder
from backends.embedders.hashing import HashingEmbedder
from backends.http import Limits
from backends.replicas import Replicas, replica_of
from backends.scripted import Line, Scripted, always
from backends.types import Backend, Embedder
from backends.vllm import OpenAIBackend
from policies import named
from policies.types import Arm, StoredPolicy
from router import settings as configured
from router.errors import SettingsError
from router.ports import Keys
from router.types import Principal


def build_backend(name: str, section: configured.Backend) -> Replicas:
    """The backend of one section of settings, behind breakers and caps. Raises: SettingsError."""
    rule = BreakerRule(failures=section.breaker.failures, ban_s=section.breaker.open_s)
    engines = [
        replica_of(engine, name=label, most=section.max_concurrency, clock=time.monotonic, rule=rule)
        for label, engine in _engines(name, section)
    ]
    return Replicas(engines, name=name, attempts=section.attempts)


def _engines(name: str, section: configured.Backend) -> Sequence[tuple[str, Backend]]:
    if isinstance(section, configured.VllmBackend):
        return [(each.url, _openai(name, section, each)) for each in section.replicas]
    if isinstance(section, configured.LitellmBackend):
        from backends.litellm import LitellmBackend  # noqa: PLC0415  (slow to import; an extra)

        return [
            (f"{name}/{i}", LitellmBackend(name=name, params=each.params)) for i, each in enumerate(section.replicas)
        ]
    if isinstance(section, configured.EmbeddedBackend):
        from backends.embedded import EmbeddedBackend  # noqa: PLC0415  (opens weights)

        return [(name, EmbeddedBackend(section.folder(), name=name, queue=section.queue))]
    return [(name, Scripted(always(Line(text=section.text)), name=name))]


def _openai(name: str, section: configured.VllmBackend, replica: configured.Replica) -> OpenAIBackend:
    timeouts = section.timeouts
    return OpenAIBackend(
        replica.url,
        name=name,
        api_key=replica.api_key.get_secret_value() if replica.api_key else None,
        headers=section.headers,
        limits=Limits(connect_s=timeouts.connect_s, first_byte_s=timeouts.first_byte_s, idle_s=timeouts.idle_s),
    )


def build_embedder(section: configured.Embedder) -> Embedder:
    """The embedder of settings behind its cache. Raises: SettingsError where an extra is missing."""
    return CachedEmbedder(_embedder(section), size=section.cache)


def _embedder(section: configured.Embedder) -> Embedder:
    if isinstance(section, configured.HashingEmbedder):
        return HashingEmbedder(section.dim)
    if isinstance(section, configured.StaticEmbedder):
        from backends.embedders.static import StaticEmbedder  # noqa: PLC0415  (an extra)

        return StaticEmbedder(section.model)
    if isinstance(section, configured.SentenceEmbedder):
        from backends.embedders.sentence import SentenceEmbedder  # noqa: PLC0415  (an extra)

        return SentenceEmbedder(section.model)
    from backends.embedders.openai import OpenAIEmbedder  # noqa: PLC0415

    return OpenAIEmbedder(section)


def build_policies(section: configured.PolicySection, arms: Sequence[Arm]) -> dict[str, StoredPolicy]:
    """The default policy and those with options; others are built when a request names them. Raises: SettingsError."""
    names = dict.fromkeys([section.name, *section.options])
    try:
        return {name: named.build(name, arms, section.options_of(name)) for name in names}
    except ValueError as error:
        raise SettingsError(f"policy: {error}", param="policy.options") from error


class StaticKeys:
    """Keys written in the settings, and an admin key; anything else is asked of the key store."""

    def __init__(self, static: Mapping[str, Principal], stored: Keys) -> None:
        self._static = [(sha256(secret.encode()).digest(), principal) for secret, principal in static.items()]
        self._stored = stored

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        """See Keys.find."""
        digest = sha256(secret.encode()).digest()
        for known, principal in self._static:
            if hmac.compare_digest(known, digest):
                return principal
        return await self._stored.find(secret, now_ms)
