"""What a ledger answers: holds with what is left, and refusals with the time of the reset."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.errors import BudgetExceeded, RateLimited
from router.stores.limits import MINUTE_MS, Limit, Shown
from router.types import Allowance, Hold, NanoUsd, show_usd

THING = {"requests": "requests a minute", "tokens": "tokens a minute", "concurrent": "requests at once"}


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why no offer fits, and when the first one would."""

    limit: Limit
    used: int
    need: int
    wait_ms: int


def refuse(refusal: Refusal) -> BudgetExceeded | RateLimited:
    """The error that tells the caller which limit stands in the way and when to come back."""
    limit, seconds = refusal.limit, refusal.wait_ms / 1000
    if limit.kind == "budget":
        return BudgetExceeded(
            f"The budget of {limit.scope} is {_usd(limit.limit)}; {_usd(refusal.used)} is spent or held and this "
            f"request may cost {_usd(refusal.need)}. It resets in {seconds:.0f} s.",
            retry_after_s=seconds,
        )
    return RateLimited(
        f"{limit.scope} is limited to {limit.limit} {THING[limit.kind]}; {refusal.used} are used and this request "
        f"needs {refusal.need}. Try again in {seconds:.0f} s.",
        retry_after_s=seconds,
    )


class ScriptAnswer(msgspec.Struct, frozen=True, gc=False):
    """An offer that fits, as a ledger found it."""

    decision_id: str
    model: str
    amount: NanoUsd
    expires_ms: int
    limits: Sequence[Limit]
    shown: Shown
    used: Sequence[int]  # of each limit, this request included


def hold_of(answer: ScriptAnswer, record: object) -> Hold:
    """The hold, with the tightest allowances and the soft budgets that are nearly used up."""
    limits, used, shown = answer.limits, answer.used, answer.shown
    warnings: tuple[str, ...] = ()
    for place in shown.soft:
        warnings += warning(limits[place], used[place])
    return Hold(
        answer.decision_id,
        answer.model,
        answer.amount,
        answer.expires_ms,
        _tightest(limits, used, shown.requests),
        _tightest(limits, used, shown.tokens),
        warnings,
        record,
    )


def _tightest(limits: Sequence[Limit], used: Sequence[int], places: tuple[int, ...]) -> Allowance | None:
    tightest: tuple[int, int] | None = None
    for place in places:
        limit = limits[place].limit
        left = limit - used[place]
        if tightest is None or left < tightest[0]:
            tightest = left, limit
    return None if tightest is None else Allowance(tightest[1], max(0, tightest[0]), MINUTE_MS)


def warning(limit: Limit, used: int) -> tuple[str, ...]:
    """What to tell the caller of a soft budget."""
    for percent in (100, 80):
        if used * 100 >= limit.limit * percent:
            return (f"{limit.scope} {percent}%",)
    return ()


def _usd(amount: int) -> str:
    """To the nano-USD in which it may differ from another."""
    return f"{show_usd(amount)} USD"
