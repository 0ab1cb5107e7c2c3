"""Who may call: keys from the settings, keys from the store with what the settings add to their tenant, and anybody
where keys are not required. Fails as the key store does: with StoreUnavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256

from router.ports import Keys
from router.settings import Settings
from router.types import Principal

MOST_COMPLETED = 120_000  # the oldest go first


class Credentials:
    """Keys of a gateway. Replaced settings are taken in between two requests."""

    def __init__(self, settings: Settings, stored: Keys, *, forget: Callable[[], None] = lambda: None) -> None:
        self._stored = stored
        self.forget = forget  # what `stored` remembers, when keys were changed here
        self.take(settings)

    def take(self, settings: Settings) -> None:
        """Go on with these settings, or not at all where they fail."""
        static, anonymous = _static(settings), settings.anonymous()
        self._settings, self.anonymous = settings, anonymous
        self._static: Mapping[bytes, Principal] = static
        self._completed: dict[str, tuple[Principal, Principal | None]] = {}  # by key: as stored, as used

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        """As Keys.find; an unknown key is nobody's, or anybody's where keys are not required."""
        known = self._static.get(sha256(secret.encode()).digest()) if self._static else None
        if known is not None:
            return known
        stored = await self._stored.find(secret, now_ms)
        return self.anonymous if stored is None else self._complete(stored)

    def _complete(self, stored: Principal) -> Principal | None:
        """The same object again for one that has not changed: ledgers remember by it. None where it is disabled."""
        found = self._completed.get(stored.key_id)
        if found is None or found[0] is not stored:
            self._completed.pop(stored.key_id, None)
            if len(self._completed) >= MOST_COMPLETED:
                del self._completed[next(iter(self._completed))]
            found = stored, self._settings.completed(stored)
            self._completed[stored.key_id] = found
        return found[1]


def _static(settings: Settings) -> dict[bytes, Principal]:
    keys = {each.secret.get_secret_value(): each.principal for each in settings.static_keys()}
    if settings.auth.admin_key is not None:
        admin = settings.auth.admin_key.get_secret_value()
        keys[admin] = replace(keys[admin], admin=True) if admin in keys else _admin(settings)
    return {sha256(secret.encode()).digest(): principal for secret, principal in keys.items()}


def _admin(settings: Settings) -> Principal:
    """Whatever the settings say of its tenant: a disabled one must not lock its operator out."""
    bare = Principal(key_id="admin", tenant=settings.auth.tenant, admin=True)
    return settings.completed(bare) or bare
