"""A gateway that tells OpenTelemetry what it does, by the conventions for generative AI; needs the extra `otel`.

Only requests whose trace is recorded are told of: a span for each decision, and one for each attempt, below the
request's own. An engine is given its attempt's place in the trace. What the SDK does wrong costs no request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.errors import BackendError
from backends.types import Reply, Report
from router.gateway.metering import Bill
from router.gateway.serving import Gateway
from router.gateway.types import Attempt, Decision
from router.types import NANO_PER_USD, Model, Spend

OPERATIONS = {  # gen_ai.operation.name by path
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
NS = 1_000_000_000
_CONTEXT = TraceContextTextMapPropagator()


@dataclass(slots=True)
class RecordedTrace:
    """A request whose trace is recorded."""

    tracer: Tracer
    request: Span
    parent: Span  # the request's, or that of the program's run whose steps are under way
    attempts: dict[str, Span] = field(default_factory=dict)  # not ended, by decision


RECORDED: ContextVar[RecordedTrace | None] = ContextVar("pointsman_trace", default=None)


class TracedGateway(Gateway):
    """Conducts, and tells of it. `provider_of` gives the provider's name of a model."""

    def __init__(self, provider_of: Callable[[Model], str], **ports: Any) -> None:
        super().__init__(**ports)
        self._provider_of = provider_of

    async def open_step(self, attempt: Attempt) -> Reply:
        """See Gateway."""
        return await self._traced(attempt, super().open_step)

    async def close_step(self, attempt: Attempt, bill: Bill, report: Report | None) -> None:
        """See Gateway."""
        await super().close_step(attempt, bill, report)
        self._end(attempt, bill.spend, report, is_step=True)

    async def settle(self, attempt: Attempt, bill: Bill, report: Report | None) -> None:
        """See Gateway."""
        await super().settle(attempt, bill, report)
        self._end(attempt, bill.spend, report)

    async def _open(self, attempt: Attempt) -> Reply:
        return await self._traced(attempt, super()._open)

    async def _traced(self, attempt: Attempt, opens: Callable[[Attempt], Any]) -> Reply:
        found = RECORDED.get()
        if found is None:
            return cast(Reply, await opens(attempt))
        _decision_span(found, attempt)
        span = self._begin(found, attempt)
        within = RECORDED.set(found if attempt.run is None else replace(found, parent=span))
        try:
            reply: Reply = await opens(attempt)
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            RECORDED.reset(within)
        found.attempts[attempt.decision.decision_id] = span
        span.set_attribute("gen_ai.response.time_to_first_chunk", attempt.timings.spent.get("first_byte", 0.0))
        return reply

    def _begin(self, found: RecordedTrace, attempt: Attempt) -> Span:
        """The span of an attempt, and its place in the trace for the engine."""
        model, call, is_run = attempt.model, attempt.call, attempt.run is not None
        operation = "invoke_workflow" if is_run else OPERATIONS.get(call.path, "chat")
        span = found.tracer.start_span(
            f"{operation} {model.name}",
            context=trace.set_span_in_context(found.parent),
            kind=SpanKind.INTERNAL if is_run else SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.stream": call.stream,
                "pointsman.model": model.name,
                "pointsman.decision.id": attempt.decision.decision_id,
                **({"gen_ai.workflow.name": model.name} if is_run else self._engine(model)),
                **_step(attempt.decision),
            },
        )
        if isinstance(call.headers, MutableMapping):
            _CONTEXT.inject(call.headers, context=trace.set_span_in_context(span))
        return span

    def _engine(self, model: Model) -> dict[str, str]:
        return {
            "gen_ai.provider.name": self._provider_of(model),
            "gen_ai.request.model": model.upstream,
            "pointsman.backend": model.backend,
        }

    def _end(self, attempt: Attempt, spend: Spend, report: Report | None, *, is_step: bool = False) -> None:
        found = RECORDED.get()
        span = found.attempts.pop(attempt.decision.decision_id, None) if found is not None else None
        if span is None or found is None:
            return
        attributes = _answered(attempt, spend, report)
        span.set_attributes(attributes)
        if report is not None and report.failure is not None:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", "stream_broken")
        span.end()
        if spend.outcome == "settled" and not is_step:
            found.request.set_attributes(attributes | {"pointsman.tenant": attempt.principal.tenant})


def _answered(attempt: Attempt, spend: Spend, report: Report | None) -> dict[str, Any]:
    """What came of an attempt."""
    attributes: dict[str, Any] = {
        "gen_ai.response.model": attempt.model.name,
        "gen_ai.usage.input_tokens": spend.prompt_tokens,
        "gen_ai.usage.output_tokens": spend.completion_tokens,
        "pointsman.cost_usd": spend.cost / NANO_PER_USD,
        "pointsman.estimated": spend.estimated,
    }
    for name, count in (
        ("gen_ai.usage.cache_read.input_tokens", spend.parts.cached),
        ("gen_ai.usage.cache_creation.input_tokens", spend.parts.cache_write + spend.parts.cache_write_1h),
        ("gen_ai.usage.reasoning.output_tokens", spend.parts.reasoning),
    ):
        if count:
            attributes[name] = count
    if report is not None and report.response_id:
        attributes["gen_ai.response.id"] = report.response_id
    if report is not None and report.finish_reason:
        attributes["gen_ai.response.finish_reasons"] = (report.finish_reason,)
    return attributes


def _step(decision: Decision) -> dict[str, str]:
    """Which step of which program it is; nothing where it is none."""
    metadata = decision.record.metadata
    return {f"pointsman.{name}": metadata[name] for name in ("program", "step") if name in metadata}


def _decision_span(found: RecordedTrace, attempt: Attempt) -> None:
    """What was decided, when it was: the record is of that moment, and nothing was awaited since but the ledger."""
    decided_ns = int(attempt.decision.record.context.now * NS)
    reserved_ns = time.time_ns()
    span = found.tracer.start_span(
        "decide",
        context=trace.set_span_in_context(found.parent),
        start_time=min(decided_ns, reserved_ns),
        attributes=_decided(attempt.decision),
    )
    span.end(reserved_ns)


def _decided(decision: Decision) -> dict[str, Any]:
    record, proposal = decision.record, decision.proposal
    return {
        "pointsman.decision.id": record.decision_id,
        "pointsman.policy": record.policy,
        "pointsman.policy.version": record.version,
        "pointsman.preference": record.context.preference,
        "pointsman.candidates": list(record.context.names),
        "pointsman.candidates.quality": proposal.estimates.quality.tolist(),
        "pointsman.candidates.cost_usd": proposal.estimates.cost.tolist(),
        "pointsman.candidates.price": proposal.prices.tolist(),
        "pointsman.candidates.probability": record.probabilities.tolist(),
        "pointsman.model": record.model,
        "pointsman.propensity": record.propensity,
    }


def _fail(span: Span, error: BaseException) -> None:
    """A failed attempt: its kind, not its words, which may quote a prompt."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, BackendError):
        span.set_attribute("pointsman.before_first_byte", True)
    span.end()
