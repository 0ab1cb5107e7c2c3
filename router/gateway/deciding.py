"""From a call to a decision: eligible, embedded, compared with the past, priced, drawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from backends.errors import BackendError
from policies.escalation import Escalation
from policies.machine_pricing import counted_ratios
from policies.preference import preference_price
from policies.records import PINNED, context_of, to_half
from policies.registry import ESCALATION
from policies.types import Estimates, Evidence, Float, LoggedContext, Policy, Proposal, StoredPolicy, draw
from router.errors import InvalidRequest
from router.gateway.abilities import Inabilities
from router.gateway.continuations import tied
from router.gateway.conversations import marks, session_of
from router.gateway.delays import Delays
from router.gateway.eligibility import (
    FAILED,
    all_hold,
    ineligible_reason,
    is_usual,
    makers,
    nobody,
    one_space,
    shortened,
    unbounded_reason,
)
from router.gateway.evidence import nearest
from router.gateway.machine_pricing import MachinePricing
from router.gateway.offers import NO_BUDGET, RecentBalances
from router.gateway.stored_answers import AnswerCache
from router.gateway.types import (
    Call,
    Candidates,
    Catalogue,
    Decision,
    Float32,
    Neighbour,
    NotWorthItsPrice,
    Options,
    Surroundings,
    Timings,
    generic_tokens,
    new_id,
)
from router.learning.follower import Learning
from router.types import DecisionRecord, Model, Principal

_NOTHING = np.empty(0, np.float32)
_NO_ROWS = np.empty(0, np.int64)
_UNKNOWN = Estimates(np.zeros(1), np.zeros(1), np.zeros(1))
_CERTAIN = Proposal(np.ones(1), _UNKNOWN, np.zeros(1), np.zeros(1), Evidence(_UNKNOWN))
SAY_EVERY_S = 60.0  # how often the same failure is logged, at most
LOG = logging.getLogger("pointsman.deciding")


class Decider:
    """Chooses a model for a call. Reads the views of the past; changes nothing but its own caches and the generator."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        learning: Learning,
        options: Options,
        surroundings: Surroundings,
        machine_pricing: MachinePricing | None = None,
        answers: AnswerCache | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.options = options
        self.machine_pricing = machine_pricing or MachinePricing({})
        self.answers = answers
        self.down: set[str] = set()  # backends that do not answer; kept by the health loop, as is …
        self.spared: dict[str, str] = {}  # … backends to use only where nobody else is left, and why
        self.unable = Inabilities(surroundings.clock)
        self.delays = Delays(lambda name: self.catalogue.backends[name], learning.views.times.speed)
        self._learning = learning
        self.embedder = surroundings.embedder
        self.features = surroundings.features
        self._keep = surroundings.keep
        self._generator = surroundings.generator
        self._clock = surroundings.clock
        self._said_at = -SAY_EVERY_S  # that the embedder failed
        self._balances = RecentBalances(surroundings.ledger, surroundings.clock)
        # of requests that need these capabilities, and are alike in what programs look at …
        self._usual: dict[tuple[object, ...], Candidates] = {}
        self._usual_of: Catalogue | None = None  # … among these models
        self._lacking = False  # whether one of them is known to lack a feature

    async def decide(self, principal: Principal, call: Call, timings: Timings, *, without: frozenset[str]) -> Decision:
        """Choose a model for this call among those not in `without`.

        Raises: NotFound, InvalidRequest, NoCandidate, StoreUnavailable.
        """
        candidates = self._candidates(principal, call, without)
        if call.path == "/v1/embeddings" and call.requirements.pinned is None and len(candidates.models) > 1:
            raise one_space(candidates.models)
        if len(candidates.models) == 1 and not self.options.remember:
            return self._only(principal, call, candidates)
        if call.requirements.pinned is None and (call.requirements.messages > 1 or call.path == "/v1/responses"):
            candidates = tied(candidates, self._learning.views.holders, principal.tenant, call)
        if principal.cache is not None and self.answers is not None and self.options.remember:
            who = makers(self.catalogue.models, candidates.names, candidates.refusals, self.spared.values())
            candidates = await self.answers.offered(principal, call, candidates, who, self._embed)
        if not candidates.models:
            raise nobody(call.requirements.pinned, candidates.refusals, self.options.names.unroutable)
        name, policy = self._policy(principal, call)
        priced = candidates.caches or self.machine_pricing.rates
        session = (
            session_of(principal.tenant, call) if priced or call.session or call.requirements.messages > 1 else None
        )
        logged = await self._ask(principal, call, candidates, timings, session if priced else None)
        rows, similarity = self._nearest_rows(logged)
        neighbours = self._learning.views.neighbours(logged, rows, similarity)
        timings.mark("neighbours")
        proposal = policy.propose(context_of(logged, neighbours))
        record = self._record(principal, call, candidates, logged, (name, proposal), session)
        if self.options.refuse_worthless and call.requirements.pinned is None:
            self._refuse_worthless(record, proposal)
        timings.mark("propose")
        return Decision(record, proposal, candidates.models, candidates.refusals)

    async def _ask(
        self, principal: Principal, call: Call, candidates: Candidates, timings: Timings, session: str | None
    ) -> LoggedContext:
        """All a policy may know of a query but its neighbours."""
        capacity, budget, newest_s = None, NO_BUDGET, self.options.balance_ttl_s
        if principal.budgets:
            budget = await self._balances.tightest(principal, newest_s)
        if candidates.budgets:
            capacity, budget = await self._balances.capacity(candidates, budget, newest_s)
        second = principal.latency_usd_per_s
        timings.mark("balance")
        embedding = await self._embed(principal, call)  # last: nobody waits between it and the search in its space
        timings.mark("embed")
        tokens = generic_tokens(call)
        counted = counted_ratios(candidates.arms, self._learning.views.counts.lines, tokens, candidates.rates)
        return LoggedContext(
            new_id(),
            principal.tenant,
            self._preference(principal, call),
            embedding,
            candidates.arms,
            tokens,
            len(call.text),
            call.requirements.completion_tokens or candidates.longest,
            self._clock(),
            budget,
            capacity,
            None if self.features is None else self.features(call.text),
            self.machine_pricing.of(candidates.models) if self.machine_pricing.rates else None,
            self.options.k,
            None if session is None else self._cached(session, candidates, tokens, counted),
            self.delays.worth(second, candidates.models, call.requirements) if second else None,
            candidates.stored,
            counted,
        )

    def _cached(self, session: str, candidates: Candidates, tokens: int, counted: Float | None) -> Float:
        """(n,) of the prompt, as far as each model has seen this conversation."""
        known = [1.0] * len(candidates.rates) if counted is None else counted.tolist()
        read = [int(tokens * rate * ratio) for rate, ratio in zip(candidates.rates, known, strict=True)]
        return self._learning.views.caches.shares(session, candidates.names, read, self._clock())

    def _refuse_worthless(self, record: DecisionRecord, proposal: Proposal) -> None:
        """Raises: BudgetExceeded where no answer is worth what it takes from a budget that others need."""
        budget, evidence = record.context.budget, record.evidence
        best = float(proposal.scores.max())
        if best < 0.0 and evidence.refuses and (evidence.budget_price > 0.0 or evidence.capacity_prices is not None):
            raise NotWorthItsPrice(
                record,
                f"The budget {budget.name} is short: {budget.remaining:.6g} of {budget.limit:.6g} USD are left, and "
                f"the best answer is worth {-best:.3g} less than its price. It resets in {budget.reset_s:.0f} s.",
                retry_after_s=budget.reset_s,
            )

    def _record(
        self,
        principal: Principal,
        call: Call,
        candidates: Candidates,
        logged: LoggedContext,
        proposed: tuple[str, Proposal],
        session: str | None = None,
    ) -> DecisionRecord:
        """With one model drawn."""
        name, proposal = proposed
        drawn = candidates.models[draw(proposal.probabilities, self._generator.random())]
        return DecisionRecord(
            logged,
            proposal.evidence,
            proposal.probabilities,
            drawn.name,
            name if call.requirements.pinned is None else PINNED,
            self._learning.version(name),
            principal.key_id,
            drawn.backend,
            text=call.text[: self.options.keep_characters],
            space=self._learning.views.space,
            text_id=b"" if self._keep is None or not self.options.remember else self._keep(principal.tenant, call.text),
            metadata=marks(session, call) if session is not None or call.answer else {},
        )

    def _only(self, principal: Principal, call: Call, candidates: Candidates) -> Decision:
        """Nothing to weigh and nothing to learn from: a pass-through."""
        name = self._policy(principal, call)[0]
        preference, now = self._preference(principal, call), self._clock()
        logged = LoggedContext(new_id(), principal.tenant, preference, _NOTHING, candidates.arms, 0, 0, 0, now)
        record = self._record(principal, call, candidates, logged, (name, _CERTAIN))
        return Decision(record, _CERTAIN, candidates.models, candidates.refusals)

    def meaning(self, name: str) -> str:
        """The model, `auto` or `auto:NAME` that a client's name stands for; the name itself where it is one."""
        return self.catalogue.meaning(name, self.options.names)

    def escalation(self) -> Escalation:
        """What is known of how sure an answer must be."""
        return cast(Escalation, self._learning.policy(ESCALATION))

    def believed(self, source: str) -> float:
        """How far a source of judgements is believed, in (0, 1)."""
        return self._learning.views.sources.of(source)

    def reads(self, model: str, features: NDArray[np.float64]) -> tuple[float, float]:
        """(the score that an answer looks like, how far that is believed); 0 where nobody can read this model."""
        return self._learning.views.heads.of(model, features)

    def policy_of(self, record: DecisionRecord) -> StoredPolicy:
        """That decided. Raises: ValueError where it is known no more."""
        return self._learning.policy(self.options.policy if record.policy == PINNED else record.policy)

    def turns_before(self, tenant: str, judged: str) -> list[str]:
        """Decisions of the earlier turns of the conversation that an answer belongs to, the latest first."""
        return self._learning.views.turns.before(tenant, judged)

    def tie(self, marks: Sequence[str], model: str) -> None:
        """The next turn may come before the log is followed so far."""
        self._learning.views.holders.take(marks, model)

    async def nearest(self, decision: Decision, tenant: str, limit: int = 5) -> list[Neighbour]:
        """The nearest of the tenant's own past queries and of what operators taught: others count in estimates only."""
        context = decision.record.context
        if not context.embedding.size or not self.options.remember:
            return []
        return await nearest(self._learning.views, context, tenant, limit=limit)

    def _candidates(self, principal: Principal, call: Call, without: frozenset[str]) -> Candidates:
        """Who may serve. Most requests differ only in length, so their candidates are looked up."""
        requirements = call.requirements
        if self._usual_of is not self.catalogue:
            self._usual_of = self.catalogue
            self._usual.clear()
            self._lacking = any(model.lacks for model in self.catalogue.models)
        is_plain = not requirements.features or not (self.unable or self._lacking)
        if is_plain and not without and not self.down and not self.spared and is_usual(requirements, principal):
            alike = requirements.capabilities, requirements.choices == 1, requirements.fee, requirements.repeats
            candidates = self._usual.get(alike)
            if candidates is not None and all_hold(candidates.models, requirements):
                return candidates
            models, refusals = self._eligible(principal, call, without)
            candidates = Candidates.of(models, refusals)
            if all("the context holds" not in why for why in refusals.values()):
                self._usual[alike] = candidates
            return candidates
        models, refusals = self._eligible(principal, call, without)
        return Candidates.of(*self._unspared(models, refusals))

    def _eligible(
        self, principal: Principal, call: Call, without: frozenset[str]
    ) -> tuple[tuple[Model, ...], dict[str, str]]:
        refusals: dict[str, str] = {}
        models = []
        for model in self.catalogue.among(call.requirements.pinned):
            why = ineligible_reason(model, call.requirements, principal, self._is_up)
            if why is None and call.requirements.unforeseen:
                refuse = self.options.refuse_unforeseen
                why = unbounded_reason(model, call.requirements, principal, refuse=refuse)
            if why is None and call.requirements.max_delay_s is not None:
                why = self.delays.too_long(model, call.requirements, call.requirements.max_delay_s)
            if why is None and model.name in without:
                why = FAILED
            if why is None:
                models.append(model)
            else:
                refusals[model.name] = why
        short = (
            call.requirements.completion_tokens is not None
            and not call.requirements.may_shorten
            and call.requirements.pinned is None
        )
        if short and not models and any("the context holds" in why for why in refusals.values()):
            return self._eligible(principal, replace(call, requirements=shortened(call.requirements)), without)
        if call.requirements.pinned is not None or not (self.unable or self._lacking):
            return tuple(models), refusals
        return self.unable.spared(principal.tenant, tuple(models), call.requirements.features, refusals)

    def _unspared(
        self, models: tuple[Model, ...], refusals: dict[str, str]
    ) -> tuple[tuple[Model, ...], dict[str, str]]:
        """Without those whose engines are better left alone, unless there is no other."""
        free = tuple([model for model in models if model.backend not in self.spared])
        if not self.spared or not free:
            return models, refusals
        spared = {m.name: self.spared[m.backend] for m in models if m.backend in self.spared}
        return free, {**refusals, **spared}

    def _is_up(self, backend: str) -> bool:
        return backend not in self.down

    async def _embed(self, principal: Principal, call: Call) -> Float32:
        """(d,), zero where the text may not leave for the embedder or the embedder fails: estimates are then means."""
        stays = principal.local_only or call.requirements.local_only
        if not self.options.remember or (stays and not self.embedder.is_local):
            return np.zeros(self.embedder.dim, np.float32)
        try:
            vector: Float32 = (await self.embedder.embed([call.text]))[0]
        except BackendError as error:
            self._say_embedder_failed(error)
            return np.zeros(self.embedder.dim, np.float32)
        return to_half(vector)

    def _say_embedder_failed(self, error: BackendError) -> None:
        """Once a minute: there may be a thousand requests a second."""
        now = self._clock()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            LOG.warning("the embedder failed, requests are routed without their text until it answers: %s", error)

    def _nearest_rows(self, logged: LoggedContext) -> tuple[NDArray[np.int64], Float32]:
        """Rows (k,) of the past queries nearest to this one, and their similarity (k,)."""
        if not self.options.remember:
            return _NO_ROWS, _NOTHING
        hits = self._learning.views.index.search(logged.embedding[None, :], logged.neighbours_asked)
        return hits.ids[0], hits.similarity[0]

    def _policy(self, principal: Principal, call: Call) -> tuple[str, Policy]:
        allowed = self.options.on_request
        if call.policy is not None and allowed is not None and call.policy not in allowed:
            may = ", ".join(sorted(allowed))
            raise InvalidRequest(
                f"a request may not name the policy {call.policy!r} here; it may name {may}", param="routing.policy"
            )
        name = call.policy or principal.policy or self.options.policy
        try:
            return name, self._learning.policy(name)
        except ValueError as error:
            raise InvalidRequest(str(error), param="routing.policy") from error

    def _preference(self, principal: Principal, call: Call) -> float:
        knob = call.preference if call.preference is not None else principal.preference
        return _price(self.options.preference if knob is None else knob, self.options.reference_usd)


@lru_cache(maxsize=4096)
def _price(knob: float, reference_usd: float) -> float:
    return preference_price(knob, reference_usd=reference_usd)
