"""The path of a request: decide, reserve, remember, send, relay, settle.

How it fails: a store that is away stops the request before anything is sent (StoreUnavailable). A backend that fails
before its first byte is dropped and the draw repeated over the rest. After the first byte nothing is retried, and the
settlement is shielded from a client that hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from backends.dialects import ABILITIES, DIALECTS, send_over_chat
from backends.errors import BackendError, Cut, Refused, Unreachable, UnsupportedRequest
from backends.types import Reply, Report, Request, Stream, Whole
from router.errors import (
    InvalidRequest,
    NoCandidate,
    PointsmanError,
    RequestRejected,
    UpstreamFailed,
)
from router.gateway.answers import RelayedAnswer
from router.gateway.continuations import THINKS, mark_answer, watched
from router.gateway.cost_fields import LIMITS
from router.gateway.deciding import Decider
from router.gateway.doubts import Doubts
from router.gateway.eligibility import bounded, expected_prompt_tokens, room
from router.gateway.looks import ASKED, noted, reads, wants_logprobs
from router.gateway.metering import Bill
from router.gateway.observing import Observer
from router.gateway.offers import Offers
from router.gateway.run_eagerly import to_its_end
from router.gateway.step_history import StepHistory
from router.gateway.translation import for_another_model, refusal, upstream_failed
from router.gateway.types import (
    Attempt,
    Call,
    Catalogue,
    Decision,
    Metrics,
    NotWorthItsPrice,
    OneStep,
    Running,
    Timings,
    generic_tokens,
    new_id,
)
from router.ports import AuditTrail, HoldingLedger, OutcomeLog
from router.types import (
    RELEASED,
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

EXPLAINED = "/v1/route"  # stands for the model in spend lines of decisions that were only explained
_WITH_DEFAULTS = frozenset({"/v1/chat/completions", "/v1/completions"})


class Gateway:
    """Conducts. Ports come in; nothing is attempt or closed here."""

    def __init__(
        self,
        *,
        decider: Decider,
        ledger: HoldingLedger,
        log: OutcomeLog,
        audit: AuditTrail,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.decider = decider
        self.metrics = metrics
        self.steps = StepHistory()
        self._ledger = ledger
        self._log = log
        self._doubts = Doubts(audit, metrics, clock)
        self._clock = clock
        self.observer = Observer(decider, log, ask=self.answer, metrics=metrics, clock=clock)

    async def answer(self, principal: Principal, call: Call) -> RelayedAnswer:
        """Decide, reserve, remember and send; returns when the first byte of an answer is there.

        Where a model asked for by name cannot answer, the names of its chain of fallbacks are asked in order.
        Raises: RequestRejected, NoCandidate, UpstreamFailed, StoreUnavailable.
        """
        try:
            return await self._answer(principal, call)
        except (RequestRejected, NoCandidate, UpstreamFailed) as error:
            return await self._fall_back(principal, call, error)

    async def _fall_back(self, principal: Principal, call: Call, error: PointsmanError) -> RelayedAnswer:
        """The answer of the first name of the chain that can give one. Raises: `error` where none can."""
        if isinstance(error, InvalidRequest) and error.code != "context_length_exceeded":
            raise error  # the request is wrong, whoever is asked
        for other in self.decider.options.names.after(call, error):
            with contextlib.suppress(RequestRejected, NoCandidate, UpstreamFailed):
                return await self._answer(principal, other)
        raise error

    async def explain(self, principal: Principal, call: Call) -> Decision:
        """Decide and send nothing. It counts against the limits of requests and tokens as a request does, at no cost.

        Raises: RequestRejected, NoCandidate, StoreUnavailable.
        """
        options, tokens = self.decider.options, generic_tokens(call)
        offer = Offer(EXPLAINED, NanoUsd(0), tokens)
        held = Reservation(new_id(), principal, (offer,), options.hold_ttl_ms, int(self._clock() * 1000))
        hold = await self._ledger.reserve(held)
        try:
            return await self.decider.decide(principal, call, Timings(), without=frozenset())
        finally:
            await asyncio.shield(self._ledger.settle(hold, Spend(NanoUsd(0), tokens, 0, "settled")))

    async def _answer(self, principal: Principal, call: Call) -> RelayedAnswer:
        """The first model that gives a first byte."""
        timings, without = Timings(), frozenset[str]()
        failures: list[BackendError] = []
        while True:
            catalogue = self.decider.catalogue
            try:
                decision = await self.decider.decide(principal, call, timings, without=without)
            except NoCandidate as error:
                if not failures:
                    raise
                raise upstream_failed(failures) from error
            except NotWorthItsPrice as error:
                await self._remember_refused(error.record)
                raise
            hold, model = await self._reserve(principal, call, decision)
            self.metrics.held(1)
            timings.mark("reserve")
            try:
                attempt = self.attempt(decision, hold, principal, call, catalogue, timings)
            except BaseException:
                await to_its_end(self._give_back(hold))
                raise
            try:
                reply = await self._open(attempt)
            except BackendError as error:
                if isinstance(error, UnsupportedRequest) and self._learn_lack(attempt, error):
                    continue  # the same model may be asked in another protocol
                if isinstance(error, Refused) and not for_another_model(error, call):
                    raise refusal(error) from error
                self._note_failure(attempt.model, error)
                failures.append(error)
                without |= {model.name}
            else:
                return RelayedAnswer(self.settle, attempt, reply)

    def attempt(
        self,
        decision: Decision,
        hold: Hold,
        principal: Principal,
        call: Call,
        catalogue: Catalogue,
        timings: Timings,
    ) -> Attempt:
        """What answers a call: an engine of the catalogue that it was decided by, or a program that asks several."""
        model = decision.model
        if model.program is None:
            backend = catalogue.backends[model.backend]
            return Attempt(decision, hold, model, principal, call, timings, backend)
        run: Running | OneStep = model.program.begin(self, call)
        if isinstance(run, OneStep):
            backend, asked = catalogue.backends[run.model.backend], frozenset({run.asked})
            run.mark(decision)
            return Attempt(decision, hold, run.model, principal, call, timings, backend, asked=asked)
        run.attempt = Attempt(decision, hold, model, principal, call, timings, run, run)
        return run.attempt

    async def open_step(self, attempt: Attempt) -> Reply:
        """Remember and send a step of a program, which has a hold already. Raises: BackendError."""
        await self._remember(attempt)
        attempt.timings.mark("remember")
        reply = await self._send(attempt)
        attempt.timings.mark_answer(reply.report.engine_s)
        return reply

    async def close_step(self, attempt: Attempt, bill: Bill, report: Report | None) -> None:
        """Log what a step of a program cost; its money is the program's. Raises: StoreUnavailable."""
        attempt.timings.mark("relay")
        if self.decider.options.remember:
            await self._log.remember(self._settlement(attempt, bill.spend, report))
        if bill.doubts:
            await self._doubts.note(attempt, bill.doubts)

    async def _open(self, attempt: Attempt) -> Reply:
        """Remember and send; the hold is released where no first byte comes. Raises: BackendError."""
        try:
            await self._remember(attempt)
            attempt.timings.mark("remember")
            reply = await self._send(attempt)
        except BaseException:
            await to_its_end(self._release(attempt))
            raise
        attempt.timings.mark_answer(reply.report.engine_s)
        if "tools" in attempt.call.requirements.capabilities or not THINKS.isdisjoint(attempt.call.fields):
            reply = watched(reply, attempt)
        if attempt.call.answer and self.decider.answers is not None:
            reply = self.decider.answers.recorded(attempt, reply)
        if not isinstance(reply, Whole):
            await self._mark(attempt, reply)
            attempt.timings.mark("mark")
        self.metrics.decided(attempt.decision)
        return reply

    async def _mark(self, attempt: Attempt, reply: Stream) -> None:
        """The ledger knows before the client has a byte, or the client gets none. Raises: StoreUnavailable."""
        try:
            await self._ledger.mark(attempt.hold)
        except BaseException:
            await to_its_end(self._drop(attempt, reply))
            raise

    async def _drop(self, attempt: Attempt, reply: Stream) -> None:
        await reply.aclose()
        await self._release(attempt)

    async def _reserve(self, principal: Principal, call: Call, decision: Decision) -> tuple[Hold, Model]:
        """Hold the worst case of the drawn model, or of the best other one that fits."""
        options, requirements = self.decider.options, call.requirements
        if principal.local_only or principal.allowed_models is not None:
            requirements = bounded(requirements, principal)
        hold = await self._ledger.reserve(
            Reservation(
                decision.decision_id,
                principal,
                Offers(decision, requirements),
                options.hold_ttl_ms,
                int(self._clock() * 1000),
                options.longest_ms,
            )
        )
        if hold.model != decision.record.model:
            decision.fall_to(hold.model)
        return hold, decision.model

    async def _remember_refused(self, record: DecisionRecord) -> None:
        """A query that nobody was asked is one of those that a budget has to last for."""
        at_ms = int(self._clock() * 1000)
        refused = SettlementRecord(record.decision_id, at_ms, record.model, 0, 0, 0, "refused", tenant=record.tenant)
        for entry in (record, refused):
            await self._log.remember(entry)

    async def _remember(self, attempt: Attempt) -> None:
        if self.decider.options.remember:
            await self._log.remember(attempt.decision.record)

    async def _send(self, attempt: Attempt) -> Reply:
        call, model = attempt.call, attempt.model
        extra: dict[str, object] = {**_unset(model, call), **model.extra_body}
        dialect = None if self._speaks(attempt) else DIALECTS.get(call.path)
        prompt, asked = expected_prompt_tokens(model, call.requirements), call.requirements.completion_tokens or 1
        if prompt // call.requirements.prompts + asked > model.context_tokens:
            attempt.room = room(model, call.requirements, prompt)
        if attempt.room is not None:
            names = {"max_tokens"} if dialect is not None else LIMITS & call.fields.keys()
            extra |= dict.fromkeys(names, attempt.room)
        elif call.requirements.completion_tokens is None and model.max_output_tokens < model.context_tokens:
            limit = "max_output_tokens" if call.path == "/v1/responses" and dialect is None else "max_tokens"
            extra.setdefault(limit, model.max_output_tokens)  # or the hold would not cover the answer
        elif call.path == "/v1/completions" and "max_tokens" not in call.fields:
            extra.setdefault(
                "max_tokens", call.requirements.completion_tokens
            )  # engines differ in what they take for usual
        if reads(attempt, self.decider.options) and not wants_logprobs(call):
            extra |= ASKED
        request = Request(
            path=call.path,
            fields=_kept(model, call),
            model=model.upstream,
            answers_as=attempt.answers_as or model.name,
            stream=call.stream,
            wants_usage=call.wants_usage,
            headers=call.headers,
            extra=extra,
            session=call.session,
            tokens=prompt + (attempt.room or asked),
            tags=call.requirements.tags,
        )
        if dialect is not None:
            return await send_over_chat(attempt.backend, request, dialect)
        reply = await attempt.backend.send(request)
        return noted(reply, attempt) if reads(attempt, self.decider.options) else reply

    def _speaks(self, attempt: Attempt) -> bool:
        """Whether the model's engine has the protocol of the request itself, as far as is known."""
        own = ABILITIES.get(attempt.call.path)
        if own is None:
            return True
        lacks = self.decider.unable.reason(attempt.principal.tenant, attempt.model.name, frozenset({own}))
        return own in attempt.model.capabilities and lacks is None

    def _learn_lack(self, attempt: Attempt, error: UnsupportedRequest) -> bool:
        """Remember what the model refused; whether it is the protocol, and the model may be asked in chat instead."""
        call, model, tenant, unable = attempt.call, attempt.model, attempt.principal.tenant, self.decider.unable
        if error.no_path and call.path in DIALECTS and self._speaks(attempt):
            unable.note(tenant, model.name, frozenset({ABILITIES[call.path]}), "")
            return "chat" in model.capabilities
        unable.note(tenant, model.name, call.requirements.features, str(error))
        return False

    def _note_failure(self, model: Model, error: BackendError) -> None:
        self.metrics.failed(model.name, error)
        if isinstance(error, Unreachable) and not isinstance(error, Cut):
            self.decider.down.add(model.backend)

    def looks(self, attempt: Attempt) -> bool:
        """Whether anything can be learned of this answer by looking at it once it was sent."""
        return self.decider.options.remember and not attempt.stored and self.observer.looks(attempt)

    async def _give_back(self, hold: Hold) -> None:
        """A hold under which nothing was begun."""
        self.metrics.held(-1)
        await self._ledger.settle(hold, RELEASED)

    async def _release(self, attempt: Attempt) -> None:
        """Of a program, what its steps cost is charged."""
        await self.settle(attempt, Bill(RELEASED) if attempt.run is None else attempt.run.bill(), None)

    async def forget_answers(self, tenant: str) -> int:
        """All that is stored of a tenant to be given again; how many there were. Raises: StoreUnavailable."""
        return 0 if self.decider.answers is None else await self.decider.answers.forget(tenant)

    async def settle(self, attempt: Attempt, bill: Bill, report: Report | None) -> None:
        """End the hold and log what the answer cost. Raises: StoreUnavailable."""
        spend = bill.spend
        self.metrics.held(-1)
        if attempt.call.path == "/v1/responses":
            mark_answer(attempt, report)
        attempt.completion_tokens, attempt.spend = spend.completion_tokens, spend
        await self._ledger.settle(attempt.hold, spend)
        if attempt.call.likeness is not None and self.decider.answers is not None:
            attempt.agrees = self.decider.answers.agrees(attempt, spend, report)
        if self.decider.options.remember:
            await self._log.remember(self._settlement(attempt, spend, report))
        if attempt.asked and attempt.run is None and spend.outcome == "settled":  # a program of one step
            self.steps.answered(attempt.model.name, attempt.decision.record.metadata["step"], spend.completion_tokens)
        if attempt.marks:
            self.decider.tie(attempt.marks, attempt.model.name)
        if attempt.blocks is not None and self.decider.answers is not None:
            self.decider.answers.keep(attempt, spend, report)
        attempt.timings.mark("settle")
        if spend.outcome == "settled":
            self.metrics.settled(attempt.model.name, attempt.principal.tenant, spend, attempt.timings)
        if bill.doubts:
            await self._doubts.note(attempt, bill.doubts)

    def _settlement(self, attempt: Attempt, spend: Spend, report: Report | None) -> SettlementRecord:
        seconds = attempt.timings.spent
        return SettlementRecord(
            decision_id=attempt.decision.decision_id,
            at_ms=int(self._clock() * 1000),
            model=attempt.model.name,
            cost=spend.cost,
            prompt_tokens=spend.prompt_tokens,
            completion_tokens=spend.completion_tokens,
            outcome=spend.outcome,
            uncached=spend.uncached,
            parts=spend.parts.counts,
            saved=spend.saved,
            agrees=attempt.agrees,
            marks=tuple(attempt.marks),
            latency_ms=sum(seconds.values()) * 1000,
            first_byte_ms=seconds.get("first_byte", 0.0) * 1000,
            response_id=report.response_id if report else None,
            finish_reason=report.finish_reason if report else None,
            signature=attempt.signature,
            tenant=attempt.principal.tenant,
            answered=attempt.answered,
            returned=attempt.returned,
        )


def _unset(model: Model, call: Call) -> dict[str, object]:
    """The model's defaults for fields that the client left out."""
    if not model.defaults or call.path not in _WITH_DEFAULTS:
        return {}
    return {key: value for key, value in model.defaults.items() if key not in call.fields}


def _kept(model: Model, call: Call) -> dict[str, msgspec.Raw]:
    """The client's fields without those that the model does not get."""
    if not model.drop_fields:
        return call.fields
    return {key: value for key, value in call.fields.items() if key not in model.drop_fields}
