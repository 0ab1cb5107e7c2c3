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
    amount: int
    expires_ms: int
    gauges: Sequence[Gauge]
    used: Sequence[int]  # of each gauge, this request included


def hold_of(answer: Answer, ticket: object) -> Hold:
    """The hold, with the tightest allowances and the soft budgets that are nearly used up."""
    left: dict[str, Allowance] = {}
    warnings: list[str] = []
    for gauge, used in zip(answer.gauges, answer.used, strict=True):
        if gauge.kind in ("requests", "tokens"):
            _tighten(left, gauge, used)
        elif not gauge.hard:
            warnings.extend(warning(gauge, used))
    requests, tokens = left.get("requests"), left.get("tokens")
    amount, warned = NanoUsd(answer.amount), tuple(warnings)
    return Hold(answer.decision_id, answer.model, amount, answer.expires_ms, requests, tokens, warned, ticket)


def _tighten(left: dict[str, Allowance], gauge: Gauge, used: int) -> None:
    known = left.get(gauge.kind)
    if known is None or gauge.limit - used < known.remaining:
        left[gauge.kind] = Allowance(gauge.limit, max(0, gauge.limit - used), MINUTE_MS)


def warning(gauge: Gauge, used: int) -> list[str]:
    """What to tell the caller of a soft budget."""
    for percent in (100, 80):
        if used * 100 >= gauge.limit * percent:
            return [f"{gauge.scope} {percent}%"]
    return []


def _usd(amount: int) -> str:
    return f"{amount / NANO_PER_USD:.6f} USD"
