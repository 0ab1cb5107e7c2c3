"""Answers that are given again: a stored one is an arm among the models, at no cost, and is sent as it first came.

How it fails: a store that is away, or holds what cannot be read, is as good as empty; the models answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from backends.dialects import ABILITIES
from backends.types import Reply, Report, Request, Stream, Usage, Whole
from policies.stored_answers import STORED
from policies.types import Arm
from router.errors import StoreUnavailable
from router.gateway.eligibility import Requirements
from router.gateway.metering import Bill
from router.gateway.replayed_ids import fresh_id, renamed
from router.gateway.shown import shown_answer
from router.gateway.similar import AUDIT, NEAREST, Likeness, before_the_question
from router.gateway.types import Attempt, Call, Candidates, Float32, arm_of
from router.learning.likeness import confidence, fingerprint, say_the_same
from router.learning.views import Views
from router.ports import Cipher, StoredAnswers
from router.types import CacheRules, Model, NanoUsd, Offer, Price, Principal, Spend

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
_SILENT = b"null"
_ALL: Mapping[str, bytes] = {}
Embed = Callable[[Principal, Call], Awaitable[Float32]]
_NOTHING = Price(NanoUsd(0), NanoUsd(0))


class KeptAnswer(msgspec.Struct, array_like=True):
    """An answer as it is stored."""

    made_by: str  # the decision
    model: str
    at_ms: int
    cost: int  # nano-USD, when it was made
    response_id: str | None
    finish_reason: str | None
    tokens: tuple[int, int]
    asked: str  # the question, where similar ones may have this answer
    blocks: list[bytes]  # a body, or a stream as it came

    def report(self) -> Report:
        """What is said of it when it is given again, under an id of its own."""
        usage = Usage(*self.tokens)
        return Report(usage, complete=True, finish_reason=self.finish_reason, response_id=fresh_id(self.response_id))

    def text(self, call: Call) -> str | None:
        """What it says to a call of its own shape."""
        return _text(call, self.blocks)


_decode = msgspec.msgpack.Decoder(KeptAnswer).decode
_encode = msgspec.msgpack.Encoder().encode


Pending = dict[str, tuple[CacheRules, dict[str, KeptAnswer]]]
"""Answers that wait to be stored, by tenant and name."""


class Recording:
    """An answer under way that is to be stored: its blocks, until there are too many."""

    def __init__(self, reply: Stream, most: int) -> None:
        self._reply, self._most = reply, most
        self.blocks: list[bytes] = []
        self.size = 0

    @property
    def report(self) -> Report:
        """The engine's own."""
        return self._reply.report

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._reply:
            self.size += len(block)
            if self.size <= self._most:
                self.blocks.append(block)
            yield block

    async def aclose(self) -> None:
        """Stop at once."""
        await self._reply.aclose()


class ReplayedStream:
    """A stored stream, block by block. See Stream."""

    def __init__(self, kept: KeptAnswer) -> None:
        self._kept, self.report = kept, kept.report()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self._kept.blocks:
            yield renamed(block, self._kept.response_id, self.report.response_id)

    async def aclose(self) -> None:
        """Nothing is under way."""


class Replay:
    """A stored answer on its way. See Running."""

    attempt: Attempt

    def __init__(self, kept: KeptAnswer, how: str, clock: Callable[[], float]) -> None:
        self._kept, self._how, self._clock = kept, how, clock

    async def send(self, request: Request) -> Reply:
        """See Backend.send; nothing can fail."""
        kept = self._kept
        self.attempt.stored = f"{self._how}; age={max(0, int(self._clock()) - kept.at_ms // 1000)}"
        if request.stream:
            return ReplayedStream(kept)
        report = kept.report()
        return Whole(renamed(b"".join(kept.blocks), kept.response_id, report.response_id), report)

    def bill(self) -> Bill:
        """Nothing, and what it cost when it was made."""
        return Bill(Spend(NanoUsd(0), 0, 0, "settled", saved=NanoUsd(self._kept.cost)))


class StoredAnswer:
    """What stands for a model's answer among the candidates. See router.types.Program."""

    def __init__(self, kept: KeptAnswer, how: str, clock: Callable[[], float]) -> None:
        self._kept, self._how, self._clock = kept, how, clock

    def offer(self, model: Model, requirements: Requirements) -> Offer:
        """See Program.offer."""
        return Offer(model.name, NanoUsd(0), 0)

    def reason(self, requirements: Requirements, principal: Principal, is_up: Callable[[str], bool]) -> str | None:
        """See Program.reason: whoever made it may serve, or it was not offered."""
        return None

    def begin(self, gateway: Any, call: Any) -> Replay:
        """See Program.begin."""
        return Replay(self._kept, self._how, self._clock)


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
        if kept is None or maker is None:
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
        text = _text(attempt.call, attempt.blocks)
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
        return await self._store.forget(tenant)

    async def write(self) -> None:
        """Store what waits for it. Nothing fails here."""
        pending, self._pending = self._pending, {}
        self._under_way = pending  # until the store has them
        for tenant, (rules, answers) in pending.items():
            bodies = {name: self._cipher.encrypt(_encode(kept)) for name, kept in answers.items()}
            try:
                await self._store.keep(tenant, bodies, rules)
            except StoreUnavailable as error:
                LOG.warning("%d answers are not stored, nobody is given them again: %s", len(bodies), error)
        if self._under_way is pending:
            self._under_way = {}

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


def _text(call: Call, blocks: list[bytes]) -> str | None:
    shown = shown_answer(call.path, b"".join(blocks), streamed=call.stream)
    return None if shown is None else shown.text


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
