"""What a ledger answers: holds with what is left, and refusals with the time of the reset."""

from __future__ import annotations

from router.errors import BudgetExceeded, RateLimited
from router.stores.book import Found, Refusal
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


def hold_of(found: Found) -> Hold:
    """The hold of a ticket just opened, with the tightest allowances and the soft budgets that are nearly used up."""
    left: dict[str, Allowance] = {}
    warnings: list[str] = []
    ticket = found.ticket
    for gauge, used in zip(found.plan.gauges, found.used, strict=True):
        if gauge.kind in ("requests", "tokens"):
            _tighten(left, gauge, used)
        elif not gauge.hard:
            warnings.extend(warning(gauge, used))
    return Hold(
        ticket.decision_id,
        ticket.model,
        NanoUsd(ticket.amount),
        ticket.expires_ms,
        left.get("requests"),
        left.get("tokens"),
        tuple(warnings),
        ticket,
    )


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
