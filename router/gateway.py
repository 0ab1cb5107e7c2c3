"""The path of a request: decide, reserve, remember, send, relay, settle.

How it fails: a store that is away stops the request before anything is sent (StoreUnavailable); a backend that fails
before its first byte is dropped and the draw repeated over the rest; after the first byte nothing is retried, and the
settlement is shielded from a client that hangs up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.errors import BackendError, Overloaded, Refused, TimedOut, Unreachable
from backends.types import Backend, Embedder, Reply, Request, Usage
from policies.preference import preference_price
from policies.types import Arm, Estimates, Policy, Proposal, Purse, RouteContext
from router.eligibility import Needs, expected_prompt_tokens, why_not, worst_tokens
from router.errors import (
    BudgetExceeded,
    InvalidRequest,
    NoCandidate,
    NotFound,
    PointsmanError,
    RequestRejected,
    UpstreamFailed,
)
from router.learning import Learning
from router.ports import Ledger, NeighbourIndex, OutcomeLog
from router.types import (
    NANO_PER_USD,
    Balance,
    Budget,
    DecisionRecord,
    Hold,
    Model,
    NanoUsd,
    Offer,
    Principal,
    Reservation,
    SettlementRecord,
    Spend,
)

Float32 = NDArray[np.float32]
GENERIC_BYTES_PER_TOKEN = 4.0
_DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Call:
    """One parsed request: what must be known of the body, and the body's own bytes for everything else."""

    path: str
    fields: dict[str, msgspec.Raw]
    text: str  # what is embedded: the last thing the user said
    needs: Needs
    stream: bool = False
    wants_usage: bool = True
    preference: float | None = None
    policy: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What may be chosen from: replaced as a whole when settings are reloaded."""

    models: tuple[Model, ...]
    backends: Mapping[str, Backend]

    def names(self) -> list[str]:
        """Every model a client may name."""
        return [model.name for model in self.models]

    def arms(self) -> tuple[Arm, ...]:
        """The models as policies see them."""
        return tuple(arm_of(model) for model in self.models)


@lru_cache(maxsize=4096)
def _arm(name: str, prompt: int, completion: int, scale: float, context: int, lineage: tuple[object, ...]) -> Arm:
    parent, bits, parameters = lineage
    per_token = 1e6 * NANO_PER_USD
    return Arm(
        name=name,
        prompt_price=prompt * scale / per_token,
        completion_price=completion / per_token,
        context_tokens=context,
        parent=parent if isinstance(parent, str) else None,
        bits=bits if isinstance(bits, int) else None,
        parameters=parameters if isinstance(parameters, float) else None,
    )


def arm_of(model: Model) -> Arm:
    """The model as a policy sees it. Its prompt price is per generic token of four bytes, so that models of different
    tokenizers compare on one prompt length."""
    scale = GENERIC_BYTES_PER_TOKEN / model.bytes_per_token
    lineage = (model.parent, model.bits, model.parameters)
    return _arm(model.name, model.price.prompt, model.price.completion, scale, model.context_tokens, lineage)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One past query near the present one, as evidence."""

    text: str
    similarity: float
    scores: Mapping[str, float]


@dataclass(slots=True)
class Decision:
    """What was decided for one call and why; frozen in spirit once drawn."""

    decision_id: str
    policy: str
    preference: float  # λ, 1/USD
    models: tuple[Model, ...]  # (n,) eligible
    refusals: Mapping[str, str]  # model -> reason, for the others
    proposal: Proposal
    choice: int  # index into models
    embedding: Float32
    neighbour_rows: NDArray[np.int64]
    similarity: Float32
    purse: Purse
    embedded_ms: float = 0.0

    @property
    def propensity(self) -> float:
        """Probability with which the choice was drawn."""
        return float(self.proposal.probabilities[self.choice])


@dataclass(frozen=True, slots=True)
class Options:
    """How a gateway decides; from settings."""

    policy: str
    preference: float
    reference_usd: float
    k: int
    hold_ttl_ms: int = 600_000
    keep_characters: int = 0  # of the query's text, in the log
    remember: bool = True  # False: nothing is embedded, logged or learned
    balance_ttl_s: float = 0.25


class Stages:
    """Seconds of each stage of one request, by perf_counter."""

    __slots__ = ("at", "spent")

    def __init__(self) -> None:
        self.at = time.perf_counter()
        self.spent: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """Add the time since the last mark to this stage."""
        now = time.perf_counter()
        self.spent[stage] = self.spent.get(stage, 0.0) + now - self.at
        self.at = now


class Meter:
    """What the gateway counts; the metrics endpoint subclasses it. The defaults count nothing."""

    def decided(self, decision: Decision) -> None:
        """A decision was drawn."""

    def settled(self, model: str, tenant: str, spend: Spend, stages: Stages) -> None:
        """A request ended and was charged."""

    def failed(self, model: str, error: BackendError) -> None:
        """A backend failed before its first byte."""


class Gateway:
    """Conducts. Ports come in; nothing is opened or closed here."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        ledger: Ledger,
        log: OutcomeLog,
        embedder: Embedder,
        index: NeighbourIndex,
        learning: Learning,
        policies: Mapping[str, Policy],
        options: Options,
        generator: np.random.Generator,
        meter: Meter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.catalogue = catalogue
        self.options = options
        self.policies = policies
        self.learning = learning
        self.meter = meter
        self.down: set[str] = set()  # names of backends that do not answer; kept by the health loop
        self._ledger = ledger
        self._log = log
        self._embedder = embedder
        self._index = index
        self._generator = generator
        self._clock = clock
        self._balances: dict[tuple[Budget, ...], tuple[float, list[Balance]]] = {}

    # -- deciding ------------------------------------------------------------------------------------------------

    async def decide(self, principal: Principal, call: Call, stages: Stages, *, without: frozenset[str]) -> Decision:
        """Choose a model for this call among those not in `without`.

        Raises: NotFound, InvalidRequest, NoCandidate, StoreUnavailable.
        """
        models, refusals = self._eligible(principal, call, without)
        if not models:
            raise self._nobody(call, refusals)
        embedding = await self._embed(call)
        stages.mark("embed")
        purse = await self._purse(principal)
        stages.mark("balance")
        hits = self._index.search(embedding[None, :], self.options.k) if self.options.remember else None
        rows = hits.ids[0] if hits else np.empty(0, np.int64)
        similarity = hits.similarity[0] if hits else np.empty(0, np.float32)
        stages.mark("neighbours")
        name, policy = self._policy(principal, call)
        price = self._preference(principal, call)
        context = self._context(call, principal, models, embedding, rows, similarity, purse, price)
        proposal = policy.propose(context)
        decision = Decision(
            decision_id=new_id(),
            policy=name if call.needs.pinned is None else "pinned",
            preference=price,
            models=models,
            refusals=refusals,
            proposal=proposal,
            choice=draw(proposal.probabilities, self._generator.random()),
            embedding=embedding,
            neighbour_rows=rows,
            similarity=similarity,
            purse=purse,
        )
        stages.mark("propose")
        return decision

    def nearest(self, decision: Decision, limit: int = 5) -> list[Neighbour]:
        """The past queries a decision rests on, nearest first."""
        names = [model.name for model in decision.models]
        rows, similarity = decision.neighbour_rows[:limit], decision.similarity[:limit]
        found = self.learning.table.neighbours(rows, similarity, names)
        return [
            Neighbour(
                text=self.learning.table.texts[row],
                similarity=float(similarity[i]),
                scores={n: float(s) for n, s in zip(names, found.scores[i], strict=True) if s == s},
            )
            for i, row in enumerate(rows)
        ]

    def _eligible(
        self, principal: Principal, call: Call, without: frozenset[str]
    ) -> tuple[tuple[Model, ...], dict[str, str]]:
        refusals: dict[str, str] = {}
        models = []
        for model in self.catalogue.models:
            why = why_not(model, call.needs, principal, self._is_up)
            if why is None and model.name in without:
                why = "failed on this request"
            if why is None:
                models.append(model)
            else:
                refusals[model.name] = why
        return tuple(models), refusals

    def _is_up(self, backend: str) -> bool:
        return backend not in self.down

    def _nobody(self, call: Call, refusals: Mapping[str, str]) -> PointsmanError:
        """The error that says best why no model may serve."""
        pinned = call.needs.pinned
        if pinned is not None and pinned not in refusals:
            return NotFound(f"there is no model {pinned!r}", param="model", code="model_not_found")
        reasons = {pinned: refusals[pinned]} if pinned is not None else refusals
        detail = "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "no models are configured"
        if reasons and all("context holds" in why for why in reasons.values()):
            return InvalidRequest(f"the request is too long: {detail}", param="messages", code="context_length_exceeded")
        if reasons and not any("down" in why or "draining" in why or "failed" in why for why in reasons.values()):
            return InvalidRequest(f"no model may serve this request: {detail}", param="model", code="no_eligible_model")
        return NoCandidate(f"no model can serve this request now: {detail}", retry_after_s=5.0)

    async def _embed(self, call: Call) -> Float32:
        if not self.options.remember:
            return np.zeros(self._embedder.dim, np.float32)
        vectors = await self._embedder.embed([call.text])
        return vectors[0]

    async def _purse(self, principal: Principal) -> Purse:
        """The budget with the smallest share left, read at most every `balance_ttl_s`."""
        if not principal.budgets:
            return _NO_PURSE
        now = self._clock()
        known = self._balances.get(principal.budgets)
        if known is None or now - known[0] > self.options.balance_ttl_s:
            if len(self._balances) > 10_000:
                self._balances.clear()
            known = now, await self._ledger.balances(principal.budgets, int(now * 1000))
            self._balances[principal.budgets] = known
        hard = [b for b in known[1] if b.budget.hard]
        if not hard:
            return _NO_PURSE
        tight = min(hard, key=lambda b: b.remaining / max(1, b.budget.limit))
        return Purse(
            remaining=tight.remaining / NANO_PER_USD,
            limit=tight.budget.limit / NANO_PER_USD,
            reset_s=tight.reset_ms / 1000,
            name=f"{tight.budget.scope}/{tight.budget.period_s}",
        )

    def _policy(self, principal: Principal, call: Call) -> tuple[str, Policy]:
        name = call.policy or principal.policy or self.options.policy
        policy = self.policies.get(name)
        if policy is None:
            names = ", ".join(self.policies)
            raise InvalidRequest(f"there is no policy {name!r} here; there are {names}", param="routing.policy")
        return name, policy

    def _preference(self, principal: Principal, call: Call) -> float:
        knob = call.preference if call.preference is not None else principal.preference
        return _price(self.options.preference if knob is None else knob, self.options.reference_usd)

    def _context(
        self,
        call: Call,
        principal: Principal,
        models: tuple[Model, ...],
        embedding: Float32,
        rows: NDArray[np.int64],
        similarity: Float32,
        purse: Purse,
        price: float,
    ) -> RouteContext:
        names = [model.name for model in models]
        return RouteContext(
            request_id=call.request_id,
            tenant=principal.tenant,
            preference=price,
            embedding=embedding,
            neighbours=self.learning.table.neighbours(rows, similarity, names),
            arms=tuple([arm_of(model) for model in models]),
            prompt_tokens=generic_tokens(call),
            prompt_characters=len(call.text),
            max_completion_tokens=call.needs.completion_tokens or max(m.max_output_tokens for m in models),
            now=self._clock(),
            purse=purse,
        )

    # -- serving -------------------------------------------------------------------------------------------------

    async def answer(self, principal: Principal, call: Call) -> Answer:
        """Decide, reserve, remember and send; returns when the first byte of an answer is there.

        Raises: RequestRejected, NoCandidate, UpstreamFailed, StoreUnavailable.
        """
        stages, without = Stages(), frozenset[str]()
        last: BackendError | None = None
        while True:
            try:
                decision = await self.decide(principal, call, stages, without=without)
            except NoCandidate as error:
                if last is None:
                    raise
                raise upstream_failed(last) from error
            hold, model = await self._reserve(principal, call, decision)
            stages.mark("reserve")
            opened = Opened(decision, hold, model, principal, call, stages)
            try:
                await self._remember(opened)
                stages.mark("remember")
                reply = await self._send(opened)
            except BackendError as error:
                await self._release(opened)
                if isinstance(error, Refused) and not _too_long_for_this_one(error, call):
                    raise refusal(error) from error
                self._note_failure(model, error)
                last, without = error, without | {model.name}
                continue
            except BaseException:
                await asyncio.shield(self._release(opened))
                raise
            stages.mark("first_byte")
            self.meter.decided(decision)
            return Answer(self, opened, reply)

    async def _reserve(self, principal: Principal, call: Call, decision: Decision) -> tuple[Hold, Model]:
        """Hold the worst case of the drawn model, or of the best other one that fits."""
        order = preference_order(decision.proposal, decision.choice)
        offers = tuple(self._offer(decision.models[i], call.needs) for i in order)
        now_ms = int(self._clock() * 1000)
        hold = await self._ledger.reserve(
            Reservation(decision.decision_id, principal, offers, self.options.hold_ttl_ms, now_ms)
        )
        drawn = decision.models[decision.choice]
        if hold.model == drawn.name:
            return hold, drawn
        decision.choice = next(i for i, model in enumerate(decision.models) if model.name == hold.model)
        return hold, decision.models[decision.choice]

    def _offer(self, model: Model, needs: Needs) -> Offer:
        prompt, completion = worst_tokens(model, needs)
        budgets: tuple[Budget, ...] = ()
        if model.capacity is not None:
            budgets = (Budget(f"model:{model.name}", model.capacity, model.capacity_period_s),)
        return Offer(model.name, model.price.of(prompt, completion), prompt + completion, budgets)

    async def _remember(self, opened: Opened) -> None:
        if self.options.remember:
            await self._log.remember(self._record(opened))

    def _record(self, opened: Opened) -> DecisionRecord:
        decision, call, principal = opened.decision, opened.call, opened.principal
        estimates: Estimates = decision.proposal.estimates
        return DecisionRecord(
            decision_id=decision.decision_id,
            at_ms=int(self._clock() * 1000),
            tenant=principal.tenant,
            key_id=principal.key_id,
            policy=decision.policy,
            model=opened.model.name,
            propensity=decision.propensity,
            preference=decision.preference,
            candidates=tuple([model.name for model in decision.models]),
            probabilities=tuple(decision.proposal.probabilities.tolist()),
            quality=tuple(estimates.quality.tolist()),
            cost=tuple(estimates.cost.tolist()),
            sigma=tuple(estimates.sigma.tolist()),
            prices=tuple(decision.proposal.prices.tolist()),
            embedding=decision.embedding.astype("<f2").tobytes(),
            text=call.text[: self.options.keep_characters],
            prompt_tokens=generic_tokens(call),
            prompt_characters=len(call.text),
            purse=decision.purse.name,
        )

    async def _send(self, opened: Opened) -> Reply:
        call, model = opened.call, opened.model
        extra: dict[str, object] = dict(model.extra_body)
        if call.needs.completion_tokens is None and model.max_output_tokens < model.context_tokens:
            extra.setdefault("max_tokens", model.max_output_tokens)  # or the hold would not cover the answer
        request = Request(
            path=call.path,
            fields=call.fields,
            model=model.upstream,
            answers_as=model.name,
            stream=call.stream,
            wants_usage=call.wants_usage,
            headers=call.headers,
            extra=extra,
            session=call.session,
        )
        return await self.catalogue.backends[model.backend].send(request)

    def _note_failure(self, model: Model, error: BackendError) -> None:
        self.meter.failed(model.name, error)
        if isinstance(error, Unreachable):
            self.down.add(model.backend)

    async def _release(self, opened: Opened) -> None:
        await self.settle(opened, Spend(NanoUsd(0), 0, 0, "released"), reply=None)

    async def settle(self, opened: Opened, spend: Spend, *, reply: Reply | None) -> None:
        """End the hold and log what the answer cost. Raises: StoreUnavailable."""
        await self._ledger.settle(opened.hold, spend)
        if self.options.remember:
            await self._log.remember(self._settlement(opened, spend, reply))
        opened.stages.mark("settle")
        if spend.outcome == "settled":
            self.meter.settled(opened.model.name, opened.principal.tenant, spend, opened.stages)

    def _settlement(self, opened: Opened, spend: Spend, reply: Reply | None) -> SettlementRecord:
        seconds = opened.stages.spent
        return SettlementRecord(
            decision_id=opened.decision.decision_id,
            at_ms=int(self._clock() * 1000),
            model=opened.model.name,
            cost=spend.cost,
            prompt_tokens=spend.prompt_tokens,
            completion_tokens=spend.completion_tokens,
            outcome=spend.outcome,
            latency_ms=sum(seconds.values()) * 1000,
            first_byte_ms=seconds.get("first_byte", 0.0) * 1000,
            response_id=reply.response_id if reply else None,
            finish_reason=reply.finish_reason if reply else None,
        )


@dataclass(slots=True)
class Opened:
    """A request with its hold taken."""

    decision: Decision
    hold: Hold
    model: Model
    principal: Principal
    call: Call
    stages: Stages


class Answer:
    """An answer under way: iterate to relay it, and always close()."""

    def __init__(self, gateway: Gateway, opened: Opened, reply: Reply) -> None:
        self.opened = opened
        self.reply = reply
        self.cost: NanoUsd | None = None  # known once settled
        self._gateway = gateway
        self._settling: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as the engine sends it. A stream's usage event gains `usage.cost`; it is settled before [DONE]."""
        annotated = not self.opened.call.stream
        async for chunk in self.reply:
            if not annotated and self.reply.usage is not None:
                annotated = True
                yield with_cost(chunk, self.spend().cost)
                continue
            if chunk.endswith(_DONE):
                await self.settle()
            yield chunk

    async def settle(self) -> None:
        """Charge what this answer cost, shielded from the caller's cancellation. Idempotent. Raises: StoreUnavailable."""
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())
        await asyncio.shield(self._settling)

    async def close(self) -> None:
        """Cut the engine off if it is still generating, then settle. Idempotent. Raises: StoreUnavailable."""
        await asyncio.shield(self.reply.aclose())
        await self.settle()

    async def _settle(self) -> None:
        self.opened.stages.mark("relay")
        spend = self.spend()
        await self._gateway.settle(self.opened, spend, reply=self.reply)
        self.cost = spend.cost

    def spend(self) -> Spend:
        """What this answer costs: the engine's usage, or a count of what was relayed. Never more than the hold."""
        model, usage = self.opened.model, self.reply.usage
        if usage is None:
            needs = self.opened.call.needs
            usage = Usage(
                expected_prompt_tokens(model, needs), -int(-self.reply.produced // model.bytes_per_token)
            )
        cost = min(model.price.of(usage.prompt_tokens, usage.completion_tokens), self.opened.hold.amount)
        estimated = self.reply.usage is None
        return Spend(NanoUsd(cost), usage.prompt_tokens, usage.completion_tokens, "settled", estimated)


_NO_PURSE = Purse()


@lru_cache(maxsize=4096)
def _price(knob: float, reference_usd: float) -> float:
    return preference_price(knob, reference_usd=reference_usd)


def new_id() -> str:
    """A decision id: `dec-` and 24 hexadecimal digits, the first 11 of them milliseconds since 1970."""
    return f"dec-{int(time.time() * 1000):011x}{os.urandom(7).hex()[:13]}"


def generic_tokens(call: Call) -> int:
    """Prompt tokens of four bytes each, for comparing models of different tokenizers."""
    return int(call.needs.prompt_bytes / GENERIC_BYTES_PER_TOKEN) + 1


def draw(probabilities: NDArray[np.float64], uniform: float) -> int:
    """The index where the running sum of probabilities (n,) passes `uniform` in [0, 1)."""
    total = 0.0
    for i, p in enumerate(probabilities.tolist()):
        total += p
        if uniform < total:
            return i
    return int(np.argmax(probabilities))


def preference_order(proposal: Proposal, choice: int) -> list[int]:
    """The drawn model first, then the others by score, best first."""
    if len(proposal.scores) == 1:
        return [choice]
    order: Sequence[int] = np.argsort(-proposal.scores, kind="stable").tolist()
    return [choice, *(i for i in order if i != choice)]


def with_cost(event: bytes, cost: NanoUsd) -> bytes:
    """The usage event of a stream with `"cost"` in USD put first into its usage object."""
    head, usage, rest = event.partition(b'"usage":')
    brace = rest.find(b"{")
    if not usage or brace < 0:
        return event
    separator = b"" if rest[brace + 1 :].lstrip().startswith(b"}") else b","
    return head + usage + rest[: brace + 1] + b'"cost":' + usd(cost).encode() + separator + rest[brace + 1 :]


def usd(cost: NanoUsd) -> str:
    """Nano-USD as a decimal number of USD, exact."""
    whole, nano = divmod(cost, NANO_PER_USD)
    return f"{whole}.{nano:09d}".rstrip("0").rstrip(".") if nano else str(whole)


def refusal(error: Refused) -> RequestRejected:
    """The engine's own 4xx as the caller's error; the engine's message is kept."""
    message, code = str(error), None
    try:
        body = msgspec.json.decode(error.body)
        inner = body.get("error", body) if isinstance(body, dict) else {}
        message = str(inner.get("message") or message) if isinstance(inner, dict) else message
        code = inner.get("code") if isinstance(inner, dict) and isinstance(inner.get("code"), str) else None
    except msgspec.DecodeError:
        pass
    if "context length" in message or "maximum context" in message:
        code = "context_length_exceeded"
    status = error.status if error.status not in (401, 403) else 502  # the gateway's own credentials, not the caller's
    rejected = InvalidRequest(message, code=code, status=status)
    return rejected


def _too_long_for_this_one(error: Refused, call: Call) -> bool:
    """Whether another model might take what this engine found too long."""
    text = error.body.lower()
    return call.needs.pinned is None and (b"context length" in text or b"context_length_exceeded" in text)


def upstream_failed(error: BackendError) -> PointsmanError:
    """The last backend's failure as the gateway's own error."""
    if isinstance(error, Overloaded):
        return NoCandidate(f"every model is busy: {error}", retry_after_s=error.retry_after_s or 1.0)
    if isinstance(error, Refused):
        return refusal(error)
    status = 504 if isinstance(error, TimedOut) else 502
    return UpstreamFailed(f"every model that was tried failed: {error}", status=status)


__all__ = ["Answer", "BudgetExceeded", "Call", "Catalogue", "Decision", "Gateway", "Meter", "Options", "Stages", "replace"]
