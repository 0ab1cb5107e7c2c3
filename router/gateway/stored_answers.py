"""Answers that are given again: a stored one is an arm among the models, at no cost, and is sent as it first came.

How it fails: a store that is away, or holds what cannot be read, is as good as empty; the models answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b

import msgspec
import numpy as np

from backends.dialects import ABILITIES
from backends.types import Reply, Report, Whole
from policies.stored_answers import STORED
from policies.types import Arm
from router.errors import StoreUnavailable
from router.gateway.replaying import KeptAnswer, Recording, StoredAnswer, text_of
from router.gateway.similar import AUDIT, NEAREST, Likeness, before_the_question
from router.gateway.types import Attempt, Call, Candidates, Float32, arm_of
from router.learning.likeness import confidence, fingerprint, say_the_same
from router.learning.views import Views
from router.ports import Cipher, StoredAnswers
from router.types import CacheRules, Model, NanoUsd, Price, Principal, Spend

LOG = logging.getLogger("pointsman.answers")
NOWHERE = "stored"  # stands where a model has the name of its backend
PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
WRITE_S = 0.05  # how long an answer waits to be stored; those who ask this gateway need not
SHARE = 16  # of a tenant's room, the most that one answer takes
_ENDED = frozenset({"stop", "end_turn", "stop_sequence", "completed"})
_TOLD_BACK = frozenset({"model", "stream", "stream_options"})  # fields that say nothing of an answer …
_FREE = _TOLD_BACK | {
    "user",
    "metadata",
    "store",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
}  # … these too
_VARIES = ("anthropic-beta", "openai-beta")  # headers that change what an engine does
_CALLS = re.compile(rb'"tool_calls"\s*:\s*\[\s*\{|"function_call"\s*:\s*\{|"type"\s*:\s*"(?:server_)?tool_use"')
_SILENT = b"null"
PURGES = "\0purges"  # in the store, whose tenants have no such name: when all of each tenant's was forgotten
_PURGES = CacheRules(ttl_ms=24 * 3_600_000, entries=100_000, bytes=1_600_000)  # kept for longer than any answer takes
_TIME = struct.Struct("<d")
_ALL: Mapping[str, bytes] = {}
Embed = Callable[[Principal, Call], Awaitable[Float32]]
_NOTHING = Price(NanoUsd(0), NanoUsd(0))


_decode = msgspec.msgpack.Decoder(KeptAnswer).decode
_encode = msgspec.msgpack.Encoder().encode


Pending = dict[str, tuple[CacheRules, dict[str, KeptAnswer]]]
"""Answers that wait to be stored, by tenant and name."""


class AnswerCache:
    """Finds what may be given again, and keeps what was answered."""

    def __init__(self, store: StoredAnswers, views: Views, clock: Callable[[], float], cipher: Cipher) -> None:
        self._store, self._views, self._clock, self._cipher = store, views, clock, cipher
        self._dice = random.Random()
        self._pending: Pending = {}
        self._under_way: Pending = {}  # to the store
        self._writing: asyncio.Future[None] | None = None
        self._forgotten: dict[str, float] = {}  # when all of a tenant's was; what was decided before is not stored

    async def offered(
        self, principal: Principal, call: Call, candidates: Candidates, makers: Iterable[Model], embed: Embed
    ) -> Candidates:
        """The candidates, with a stored answer to this very request among them, or to one that is surely as good, if
        one of `makers` made it."""
        call.answer, call.made_by, call.likeness = "", "", None
        if not _stands(call):
            return candidates
        call.answer = name_of(principal, call)
        kept = await self._find(principal.tenant, call.answer) if call.takes_stored else None
        fits, how = 1.0, "exact"
        if kept is None and call.takes_stored and principal.cache is not None and principal.cache.alpha is not None:
            kept = await self._similar(principal, call, principal.cache.alpha, embed)
            if kept is not None and call.likeness is not None:
                fits, how = 1.0 - principal.cache.alpha, f"similar; sure={call.likeness.sure:.3f}"
        maker = None if kept is None else next((model for model in makers if model.name == kept.model), None)
        if kept is None or maker is None or made_with(maker) != kept.made_with:
            return candidates
        call.made_by = kept.made_by
        return self._among(candidates, maker, _model(maker, StoredAnswer(kept, how, self._clock), call), kept, fits)

    def _among(self, candidates: Candidates, maker: Model, model: Model, kept: KeptAnswer, fits: float) -> Candidates:
        judged = self._views.answers.mean(kept.made_by)
        arm = Arm(**{**msgspec.structs.asdict(arm_of(model)), "parent": maker.name, "quality": judged})
        return Candidates(
            (*candidates.models, model),
            candidates.refusals,
            (*candidates.names, model.name),
            _with(candidates.arms, arm),
            candidates.budgets,
            candidates.longest,
            candidates.caches,
            np.array([np.nan] * len(candidates.models) + [fits]),
        )

    async def _similar(self, principal: Principal, call: Call, alpha: float, embed: Embed) -> KeptAnswer | None:
        """The answer to the question that is surest to have the same. None where that is not sure enough, or where it
        is asked all the same to learn how often such an answer is wrong."""
        found = before_the_question(call.fields, call.text, call.requirements)
        if found is None:
            return None
        group = call.likeness = Likeness(name_of(principal, call, dict([found])), fingerprint(call.text))
        vector, similar, tenant = await embed(principal, call), self._views.similar, principal.tenant
        sure, best = 0.0, None
        questions = similar.questions(tenant, group.group, self._views.space)
        for near in () if questions is None else questions.nearest(vector, group.asks, NEAREST):
            kept = await self._find(tenant, near.name)
            if kept is not None and (likely := confidence(call.text, kept.asked, near.cosine)) > sure:
                sure, best = likely, kept
        if best is None:
            return None
        group.sure = sure
        if sure >= similar.threshold(tenant, alpha) and self._dice.random() >= AUDIT:
            return best
        group.said = best.text(call)
        return None

    def agrees(self, attempt: Attempt, spend: Spend, report: Report | None) -> bool | None:
        """Whether an answer says what was stored for a similar question; None where nobody can tell."""
        likeness, rules = attempt.call.likeness, attempt.principal.cache
        if likeness is None or likeness.said is None or attempt.blocks is None or rules is None:
            return None
        if not _is_whole(attempt, spend, report, rules.bytes // SHARE):
            return None
        text = text_of(attempt.call, attempt.blocks)
        return None if text is None else say_the_same(text, likeness.said)

    def recorded(self, attempt: Attempt, reply: Reply) -> Reply:
        """The reply, watched where it may be stored."""
        rules = attempt.principal.cache
        if rules is None or attempt.stored or not (attempt.call.answer and attempt.call.keeps_stored):
            return reply
        if isinstance(reply, Whole):
            attempt.blocks = [reply.body] if len(reply.body) <= rules.bytes // SHARE else None
            return reply
        recording = Recording(reply, rules.bytes // SHARE)
        attempt.blocks = recording.blocks
        attempt.recording = recording
        return recording

    def keep(self, attempt: Attempt, spend: Spend, report: Report | None) -> None:
        """Store an answer that was charged and came to its own end, a moment later: many at once cost little more."""
        rules, blocks = attempt.principal.cache, attempt.blocks
        if rules is None or blocks is None or not _is_whole(attempt, spend, report, rules.bytes // SHARE):
            return
        assert report is not None
        if attempt.decision.record.context.now < self._forgotten.get(attempt.principal.tenant, 0.0):
            return
        kept = KeptAnswer(
            attempt.decision.decision_id,
            attempt.model.name,
            int(self._clock() * 1000),
            spend.cost,
            report.response_id,
            report.finish_reason,
            (spend.prompt_tokens, spend.completion_tokens),
            attempt.call.text if attempt.call.likeness is not None else "",
            blocks,
            made_with(attempt.model),
            attempt.decision.record.context.now,
        )
        if not self._pending:
            asyncio.get_running_loop().call_later(WRITE_S, self._begin_to_write)
        _, waiting = self._pending.setdefault(attempt.principal.tenant, (rules, {}))
        waiting[attempt.call.answer] = kept

    async def forget(self, tenant: str) -> int:
        """All of a tenant's, also what is under way here; how many were stored. Raises: StoreUnavailable."""
        self._forgotten[tenant] = self._clock()
        await self.write()
        if self._writing is not None:
            await asyncio.shield(self._writing)
        await self._store.keep(PURGES, {tenant: _TIME.pack(self._forgotten[tenant])}, _PURGES)
        return await self._store.forget(tenant)

    async def write(self) -> None:
        """Store what waits for it. Nothing fails here."""
        pending, self._pending = self._pending, {}
        self._under_way = pending  # until the store has them
        for tenant, (rules, answers) in pending.items():
            bodies = {name: self._cipher.encrypt(_encode(kept)) for name, kept in answers.items()}
            try:
                await self._store.keep(tenant, bodies, rules)
                await self._forget_late(tenant, answers)
            except StoreUnavailable as error:
                LOG.warning("%d answers are not stored, nobody is given them again: %s", len(bodies), error)
        if self._under_way is pending:
            self._under_way = {}

    async def _forget_late(self, tenant: str, answers: Mapping[str, KeptAnswer]) -> None:
        """Those that were asked for before another gateway forgot all: looked up after they are stored, so that either
        this finds the time or the other found them."""
        said = await self._store.find(PURGES, tenant)
        forgotten = 0.0 if said is None else _TIME.unpack(said)[0]
        for name in [name for name, kept in answers.items() if kept.asked_at < forgotten]:
            await self._store.forget(tenant, name)

    def _begin_to_write(self) -> None:
        self._writing = asyncio.ensure_future(self.write())

    def _decrypted(self, body: bytes) -> KeptAnswer | None:
        """None under another key, or where it is damaged: as good as gone."""
        try:
            return _decode(self._cipher.decrypt(body))
        except Exception as error:
            LOG.warning("a stored answer cannot be read: %s", type(error).__name__)
            return None

    async def _find(self, tenant: str, name: str) -> KeptAnswer | None:
        waits = next((each for of in (self._pending, self._under_way) if (each := _waiting(of, tenant, name))), None)
        if waits is not None and not self._views.answers.failed(waits.made_by):
            return waits
        try:
            body = await self._store.find(tenant, name)
            kept = None if body is None else self._decrypted(body)
            if kept is not None and self._views.answers.failed(kept.made_by):
                await self._store.forget(tenant, name)
                return None
        except StoreUnavailable as error:
            LOG.warning("stored answers are not looked up: %s", error)
            return None
        return kept


def _waiting(pending: Pending, tenant: str, name: str) -> KeptAnswer | None:
    return pending[tenant][1].get(name) if tenant in pending else None


def made_with(model: Model) -> str:
    """A digest of what an answer of this model follows from beside the request: another engine's may be another."""
    parts = (model.backend, model.upstream, model.extra_body, model.defaults, sorted(model.drop_fields))
    return blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=8).hexdigest()


def name_of(principal: Principal, call: Call, instead: Mapping[str, bytes] = _ALL) -> str:
    """A digest of all of a request that its answer may follow from, and of who shares it beside the tenant. `instead`:
    what is taken in place of fields."""
    rules = principal.cache
    team = (principal.team or "") if rules is not None and rules.by_team else ""
    free = _TOLD_BACK if call.path == "/v1/responses" else _FREE  # whose answers say again what was asked
    shape = f"{call.path}\0{team}\0{call.requirements.pinned or ''}\0{call.stream}\0{call.stream and call.wants_usage}"
    digest = blake2b(f"{shape}\0{len(instead)}".encode(), digest_size=20)
    for header in _VARIES:
        digest.update(f"\0{call.headers.get(header, '')}".encode())
    for field in sorted(call.fields.keys() - free):
        value = instead[field] if field in instead else bytes(call.fields[field])
        if value != _SILENT:
            digest.update(b"\0%d:%b%d:" % (len(field), field.encode(errors="replace"), len(value)))
            digest.update(value)
    return digest.hexdigest()


def _stands(call: Call) -> bool:
    """Whether an answer to it follows from the request alone."""
    requirements = call.requirements
    if not (call.takes_stored or call.keeps_stored):
        return False
    return call.path in PATHS and not (requirements.unforeseen or requirements.fee or requirements.searches)


def _is_whole(attempt: Attempt, spend: Spend, report: Report | None, most: int) -> bool:
    if report is None or spend.outcome != "settled" or spend.estimated or attempt.stored:
        return False
    if attempt.recording is not None and attempt.recording.size > most:
        return False
    if report.failure is not None or not report.complete or report.finish_reason not in _ENDED:
        return False
    if spend.parts.searches or (report.usage is not None and report.usage.parts.searches):
        return False  # an answer of the moment
    if "tools" in attempt.call.requirements.capabilities and _CALLS.search(b"".join(attempt.blocks or ())) is not None:
        return False  # some engines end a call that was forced by "stop"
    return not (attempt.call.path == "/v1/responses" and "tools" in attempt.call.requirements.capabilities)


def _model(maker: Model, program: StoredAnswer, call: Call) -> Model:
    """A candidate that has whatever its maker has, but a price, budgets and limits."""
    own = ABILITIES.get(call.path)
    return replace(
        maker,
        name=f"{STORED}{maker.name}",
        backend=NOWHERE,
        price=_NOTHING,
        capabilities=maker.capabilities if own is None else maker.capabilities | {own},
        extra_body={},
        defaults={},
        drop_fields=frozenset(),
        budgets=(),
        limits=(),
        replica_prices={},
        program=program,
    )


@lru_cache(maxsize=1024)
def _with(arms: tuple[Arm, ...], arm: Arm) -> tuple[Arm, ...]:
    """The same tuple for the same arms, so that whoever keeps something by arms finds it again."""
    return (*arms, arm)
