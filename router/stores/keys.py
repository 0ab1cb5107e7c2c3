"""Tenants, teams and keys: who may ask, with what, for how much. Secrets are kept as SHA-256 digests only.

Written once over a RecordStore, which each store provides. Fails closed: a store that is away is StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from policies.registry import NAMES
from router.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from router.ports import Keys, Ledger
from router.terms import Level, Terms, narrowed, owner_name
from router.types import RELEASED, Hold, Principal, Reservation

Kind = Literal["tenant", "team", "key", "digest", "price", "admission"]
PAGE = 1000
NO_TERMS = Terms()
MOST_CHECKED = 250_000  # digests of keys known to be good
MOST_REMEMBERED = 120_000  # principals, a kilobyte or two each


class RecordStore(Protocol):
    """Named bytes, by kind."""

    async def get(self, kind: Kind, name: str) -> bytes | None:
        """What is kept under this name. Raises: StoreUnavailable."""

    async def put(self, kind: Kind, name: str, body: bytes) -> None:
        """Keep it, durably. Raises: StoreUnavailable."""

    async def page(self, kind: Kind, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Up to `limit` of a kind by name, after a name ("" is the beginning). Raises: StoreUnavailable."""


async def all_of(records: RecordStore, kind: Kind) -> dict[str, bytes]:
    """Every body of a kind, by name. Raises: StoreUnavailable."""
    found: dict[str, bytes] = {}
    after = ""
    while page := await records.page(kind, after, PAGE):
        after = page[-1][0]
        found.update(page)
    return found


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays."""

    name: str
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class Team:
    """A part of a tenant, perhaps of another team; what it spends counts for its parents too."""

    name: str
    tenant: str
    parent: str | None = None
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class Key:
    """One secret's owner and terms. `prefix` is for recognition; the secret itself is kept nowhere."""

    id: str
    prefix: str
    digest: bytes
    tenant: str
    created_ms: int
    team: str | None = None
    name: str = ""
    expires_ms: int | None = None
    previous: bytes | None = None  # digest of the secret before the last rotation …
    previous_until_ms: int = 0  # … and until when it still works
    admin: bool = False
    terms: Terms = NO_TERMS


Thing = TypeVar("Thing", Tenant, Team, Key)


def _plain(terms: Any) -> object:
    """Terms as their own grammar has them."""
    return terms.model_dump(mode="json", exclude_defaults=True)


def _read(cls: Any, plain: Any) -> object:
    return cls.model_validate(plain)


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_KIND: dict[type, Kind] = {Tenant: "tenant", Team: "team", Key: "key"}


def digest_of(secret: str) -> bytes:
    """SHA-256: enough for a secret of 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def mint() -> str:
    """A new secret."""
    return "sk-" + secrets.token_urlsafe(32)


class RevocationCheck(Protocol):
    """What a ledger asks about the key of a reservation: the store numbers every change of keys as a version."""

    def heard(self, keys_version: int) -> None:
        """This is the version now."""

    def knows(self, principal: Principal) -> bool:
        """Whether this principal was looked up since the last version that was heard of."""

    async def check(self, principal: Principal, now_ms: int) -> None:
        """Look it up again. Raises: Unauthenticated, StoreUnavailable."""


async def keep_if_good(revocations: RevocationCheck, ledger: Ledger, reservation: Reservation, hold: Hold) -> None:
    """Keys have changed since this one was looked up; the hold is given back where it is not good any more.

    Raises: Unauthenticated, StoreUnavailable.
    """
    try:
        await revocations.check(reservation.principal, reservation.now_ms)
    except BaseException:
        await asyncio.shield(ledger.settle(hold, RELEASED))
        raise


class Registry:
    """Keys, and the administration of tenants, teams and keys; a RevocationCheck. `watchers` hear of changes."""

    def __init__(self, records: RecordStore, *, clock: Callable[[], int]) -> None:
        self._records, self._clock = records, clock
        self._keys_version = 0
        self._checked: set[bytes] = set()  # digests looked up since
        self.watchers: list[Callable[[], None]] = []

    def heard(self, keys_version: int) -> None:
        """As RevocationCheck.heard."""
        if keys_version != self._keys_version:
            self._keys_version = keys_version
            self._checked.clear()
            for watcher in self.watchers:
                watcher()

    def knows(self, principal: Principal) -> bool:
        """As RevocationCheck.knows. Nothing can change about a principal that is not kept here."""
        return not principal.digest or principal.digest in self._checked

    async def check(self, principal: Principal, now_ms: int) -> None:
        """As RevocationCheck.check."""
        if await self._look_up(principal.digest, now_ms) is None:
            raise Unauthenticated(f"The key {principal.key_id} has been disabled or changed.")

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        """The principal of a valid key; None where it is unknown, disabled or expired. Raises: StoreUnavailable."""
        return await self._look_up(digest_of(secret), now_ms)

    async def _look_up(self, digest: bytes, now_ms: int) -> Principal | None:
        keys_version = self._keys_version
        found = await self._found(digest, now_ms)
        is_current = keys_version == self._keys_version  # else what was read may be older than what was heard
        if found is not None and is_current:
            if len(self._checked) >= MOST_CHECKED:
                self._checked.clear()
            self._checked.add(digest)
        return found

    async def _found(self, digest: bytes, now_ms: int) -> Principal | None:
        key_id = await self._records.get("digest", digest.hex())
        if key_id is None:
            return None
        key = await self._get(Key, key_id.decode())
        if key is None or not _valid(key, digest, now_ms):
            return None
        tenant = await self._get(Tenant, key.tenant)
        if tenant is None:
            return None
        teams = [Level(f"team:{team.name}", team.terms) async for team in self._lineage(key.team)]
        levels = [Level(f"key:{key.id}", key.terms), *teams, Level(f"tenant:{tenant.name}", tenant.terms)]
        return _principal(key, digest, levels)

    async def create(
        self,
        tenant: str,
        *,
        team: str | None = None,
        name: str = "",
        expires_ms: int | None = None,
        terms: Terms | None = None,
        admin: bool = False,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, shown this once; makes the tenant if need be. Raises: NotFound, InvalidRequest."""
        if await self._get(Tenant, tenant) is None:
            await self.put(Tenant(tenant))
        if team is not None:
            await self._team_of(tenant, team)
        secret = secret or mint()
        key_id = "k_" + secrets.token_hex(8)
        key = Key(key_id, secret[:8], digest_of(secret), tenant, self._clock(), team, name, expires_ms)
        key = replace(key, terms=terms or NO_TERMS, admin=admin)
        await self._keep(key)
        return key, secret

    async def adopt(self, key: Key) -> None:
        """Keep a key that was made elsewhere, of whose secret only the SHA-256 is known. Raises: Conflict."""
        known = await self._records.get("digest", key.digest.hex())
        if known not in (None, key.id.encode()):
            raise Conflict(f"The secret of {key.id} is that of {known.decode()} already.", param="key")
        await self._keep(key)

    async def rotate(self, key_id: str, *, grace_s: int = 0) -> tuple[Key, str]:
        """A new secret for a key; the old one works `grace_s` more seconds. Raises: NotFound."""
        key = await self.get(Key, key_id)
        secret = mint()
        until = self._clock() + grace_s * 1000
        key = replace(key, prefix=secret[:8], digest=digest_of(secret), previous=key.digest, previous_until_ms=until)
        await self._keep(key)
        return key, secret

    async def disable(self, key_id: str, *, disabled: bool = True) -> Key:
        """Refuse a key from now on, or accept it again. Raises: NotFound."""
        key = await self.get(Key, key_id)
        key = replace(key, terms=key.terms.model_copy(update={"disabled": disabled}))
        await self.put(key)
        return key

    async def put(self, thing: Tenant | Team | Key) -> None:
        """Keep a tenant, a team or an existing key with these terms. Raises: InvalidRequest, NotFound, Conflict."""
        if isinstance(thing, Team):
            await self._check_team(thing)
        name = thing.id if isinstance(thing, Key) else thing.name
        check_name(name)
        if thing.terms.policy is not None and thing.terms.policy not in NAMES:
            message = f"policy is {thing.terms.policy!r}, expected one of {', '.join(NAMES)}."
            raise InvalidRequest(message, param="policy")
        await self._records.put(_KIND[type(thing)], name, _encode(thing))

    async def get(self, cls: type[Thing], name: str) -> Thing:
        """A tenant, team or key. Raises: NotFound."""
        found = await self._get(cls, name)
        if found is None:
            raise NotFound(f"There is no {_KIND[cls]} {name!r}.")
        return found

    async def of_digest(self, digest: bytes) -> Key:
        """The key whose secret has this SHA-256, valid or not. Raises: NotFound."""
        key_id = await self._records.get("digest", digest.hex())
        if key_id is None:
            raise NotFound("There is no such key.", param="key")
        return await self.get(Key, key_id.decode())

    async def has_terms(self, cls: type[Thing], name: str) -> bool:
        """Whether one of this name is kept with terms of its own. Raises: StoreUnavailable."""
        found = await self._get(cls, name)
        return found is not None and found.terms != NO_TERMS

    async def all(self, cls: type[Thing], *, after: str = "") -> AsyncIterator[Thing]:
        """Every tenant, team or key, in the order of their names, after one of them."""
        while page := await self._records.page(_KIND[cls], after, PAGE):
            for name, body in page:
                after = name
                yield msgspec.msgpack.decode(body, type=cls, dec_hook=_read)

    async def with_budgets(self, cls: type[Thing]) -> AsyncIterator[Thing]:
        """Those that have budgets of their own; the others, of which there may be very many, are not decoded."""
        after = ""
        while page := await self._records.page(_KIND[cls], after, PAGE):
            after = page[-1][0]
            for _, body in page:
                if b"budgets" in body:
                    yield msgspec.msgpack.decode(body, type=cls, dec_hook=_read)

    async def _get(self, cls: type[Thing], name: str) -> Thing | None:
        body = await self._records.get(_KIND[cls], name)
        return None if body is None else msgspec.msgpack.decode(body, type=cls, dec_hook=_read)

    async def _keep(self, key: Key) -> None:
        await self.put(key)
        await self._records.put("digest", key.digest.hex(), key.id.encode())

    async def _lineage(self, name: str | None) -> AsyncIterator[Team]:
        seen: set[str] = set()
        while name is not None and name not in seen:
            seen.add(name)
            team = await self.get(Team, name)
            yield team
            name = team.parent

    async def _team_of(self, tenant: str, name: str) -> Team:
        team = await self.get(Team, name)
        if team.tenant != tenant:
            raise Conflict(f"Team {name!r} belongs to tenant {team.tenant!r}, not to {tenant!r}.", param="team")
        return team

    async def _check_team(self, team: Team) -> None:
        await self.get(Tenant, team.tenant)
        if team.parent is None:
            return
        parent = await self._team_of(team.tenant, team.parent)
        if team.name in {parent.name, *[t.name async for t in self._lineage(parent.name)]}:
            raise Conflict(f"Team {team.name!r} cannot be its own ancestor.", param="parent")


class CachedKeys:
    """Keys remembered until somebody calls `forget`, as the store does once keys have changed. Bounded; unknown secrets
    cannot push known ones out.

    Who is known is asked for again after `ttl_ms` all the same; an unknown secret, which may be a new key's, after
    `unknown_ms`.
    """

    def __init__(
        self, keys: Keys, *, ttl_ms: int = 600_000, unknown_ms: int = 2_000, size: int = MOST_REMEMBERED
    ) -> None:
        self._keys, self._ttl_ms, self._unknown_ms, self._size = keys, ttl_ms, unknown_ms, size
        self._known: dict[bytes, tuple[Principal, int, int]] = {}  # until when, and as of which `_turn`
        self._unknown: dict[bytes, int] = {}
        self._turn = 0

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        """As Keys.find. A principal that has not changed is the same object again. Raises: StoreUnavailable."""
        digest = digest_of(secret)
        known = self._known.get(digest)
        if known is not None and now_ms < known[1] and known[2] == self._turn:
            return known[0]
        if now_ms < self._unknown.get(digest, 0):
            return None
        turn = self._turn
        found = await self._keys.find(secret, now_ms)
        if found is None:
            self._known.pop(digest, None)
            _put(self._unknown, digest, now_ms + self._unknown_ms, self._size)
            return None
        if known is not None and known[0] == found:
            found = known[0]
        until = now_ms + self._ttl_ms
        until = until if found.until_ms is None else min(until, found.until_ms)
        _put(self._known, digest, (found, until, turn), self._size)
        return found

    def forget(self) -> None:
        """Ask the store again from now on."""
        self._unknown.clear()
        self._turn += 1


_V = TypeVar("_V")


def _put(cache: dict[bytes, _V], key: bytes, value: _V, size: int) -> None:
    cache.pop(key, None)
    while len(cache) >= size:
        del cache[next(iter(cache))]
    cache[key] = value


def _valid(key: Key, digest: bytes, now_ms: int) -> bool:
    if key.expires_ms is not None and now_ms >= key.expires_ms:
        return False
    current = hmac.compare_digest(key.digest, digest)
    previous = key.previous is not None and hmac.compare_digest(key.previous, digest)
    return current or (previous and now_ms < key.previous_until_ms)


def _until_ms(key: Key, digest: bytes) -> int | None:
    """When this secret of a key stops working."""
    rotated = None if hmac.compare_digest(key.digest, digest) else key.previous_until_ms
    return min((until for until in (key.expires_ms, rotated) if until is not None), default=None)


def _principal(key: Key, digest: bytes, levels: Iterable[Level]) -> Principal | None:
    """None where one of the levels is disabled."""
    until_ms = _until_ms(key, digest)
    bare = Principal(key.id, key.tenant, key.team, admin=key.admin, digest=digest, until_ms=until_ms)
    return narrowed(bare, levels)


def check_name(name: str) -> None:
    """Raises: InvalidRequest where a name is empty, long or holds what separates scopes."""
    try:
        owner_name(name)
    except ValueError as error:
        raise InvalidRequest(f"The name is {name[:140]!r}, {error}.", param="name") from None
