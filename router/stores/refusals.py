"""What a ledger answers: holds with what is left, and refusals with the time of the reset."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.errors import BudgetExceeded, RateLimited
from router.stores.book import Refusal
from router.stores.meters import MINUTE_MS, Gauge
from router.types import NANO_PER_USD, Allowance, Hold, NanoUsd

THING = {"requests": "requests a minute", "tokens": "tokens a minute", "concurrent": "requests at once"}


def refuse(refusal: Refusal) -> BudgetExceeded | RateLimited:
    """The error that tells the caller which limit stands in the way and when to come back."""
    gauge, seconds = refusal.gauge, refusal.wait_ms / 1000
    if gauge.kind == "budget":
        return BudgetExceeded(
            f"The budget of {gauge.scope} is {_usd(gauge.limit)}; {_usd(refusal.used)} is spent or held and this "
            f"request may cost {_usd(refusal.need)}. It resets in {seconds:.0f} s.",
            retry_after_s=seconds,
        )
    return RateLimited(
        f"{gauge.scope} is limited to {gauge.limit} {THING[gauge.kind]}; {refusal.used} are used and this request "
        f"needs {refusal.need}. Try again in {seconds:.0f} s.",
        retry_after_s=seconds,
    )


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An offer that fits, as a ledger found it."""

    decision_id: str
    model: str
    amount: NanoUsd
    expires_ms: int
    gauges: Sequence[Gauge]
    used: Sequence[int]  # of each gauge, this request included


def hold_of(answer: Answer, ticket: object) -> Hold:
    """The hold, with the tightest allowances and the soft budgets that are nearly used up."""
    requests: Gauge | None = None
    tokens: Gauge | None = None
    requests_left = tokens_left = 0
    warnings: tuple[str, ...] = ()
    for gauge, used in zip(answer.gauges, answer.used, strict=True):
        if not gauge.hard:
            warnings += warning(gauge, used)
        elif gauge.kind == "requests":
            if requests is None or gauge.limit - used < requests_left:
                requests, requests_left = gauge, gauge.limit - used
        elif gauge.kind == "tokens" and (tokens is None or gauge.limit - used < tokens_left):
            tokens, tokens_left = gauge, gauge.limit - used
    return Hold(
        answer.decision_id,
        answer.model,
        answer.amount,
        answer.expires_ms,
        None if requests is None else Allowance(requests.limit, max(0, requests_left), MINUTE_MS),
        None if tokens is None else Allowance(tokens.limit, max(0, tokens_left), MINUTE_MS),
        warnings,
        ticket,
    )


def warning(gauge: Gauge, used: int) -> tuple[str, ...]:
    """What to tell the caller of a soft budget."""
    for percent in (100, 80):
        if used * 100 >= gauge.limit * percent:
            return (f"{gauge.scope} {percent}%",)
    return ()


def _usd(amount: int) -> str:
    return f"{amount / NANO_PER_USD:.6f} USD"
