"""What would have flipped a decision of this gateway, in words. Fails with ValueError where its policy is no more."""

from __future__ import annotations

import asyncio

from policies.composed import Composed
from policies.counterfactuals import Decided, Flip, flips
from policies.pacers.remaining import Remaining
from policies.records import PINNED
from router.gateway.deciding import Decider
from router.types import DecisionRecord

MANY_TIMES = 3.0  # a price that is so many times higher is said as a multiple


async def flips_of(decider: Decider, record: DecisionRecord) -> list[dict[str, object]]:
    """As JSON values, the nearest first of each kind; none of a request that named its model."""
    if record.policy == PINNED:
        return []
    policy = decider.policy_of(record)
    compensates = isinstance(policy, Composed) and isinstance(policy.pacer, Remaining)
    reference_usd = decider.options.reference_usd
    decided = Decided(record.context, record.evidence, policy.distribute, reference_usd, compensates=compensates)
    found = await asyncio.to_thread(flips, decided)  # some hundred times a decision without its look-ups
    return [{"model": each.arm, "says": said(each, record), **_fields(each)} for each in found]


def said(flip: Flip, record: DecisionRecord) -> str:
    """What has to change, to stand behind the name of the model that is then chosen."""
    if flip.kind == "preference":
        return f"{'from' if flip.change > 0.0 else 'at'} preference {flip.value:.12g}"
    if flip.kind == "budget":
        return f"with {flip.change:.3g} USD more left of {record.context.budget.name}"
    if flip.priced == flip.arm:
        return f"at a price {_percent(-flip.change)} lower"
    if flip.value >= MANY_TIMES:
        return f"once {flip.priced} costs {flip.value:.12g} times as much"
    return f"once {flip.priced} costs {_percent(flip.change)} more"


def _percent(share: float) -> str:
    return f"{share * 100.0:.9g} %"


def _fields(flip: Flip) -> dict[str, object]:
    fields: dict[str, object] = {"kind": flip.kind, "value": flip.value, "was": flip.start}
    return fields | ({"of": flip.priced} if flip.priced else {})
