"""Decisions as JSON values, with their evidence: one that was just drawn, or one that is in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from policies.preference import knob_of
from policies.types import Proposal
from router.errors import NotFound
from router.gateway.eligibility import expected_prompt_tokens
from router.gateway.flips import flips_of
from router.gateway.serving import Gateway
from router.gateway.types import GENERIC_BYTES_PER_TOKEN, Call, Decision, Neighbour
from router.programs.explaining import planned
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, Model, Principal, SettlementRecord, show_usd


async def explain(gateway: Gateway, call: Call, decision: Decision, principal: Principal) -> dict[str, object]:
    """A decision with its evidence, as JSON values: money in USD, λ in 1/USD. Neighbours are the tenant's own."""
    candidates: list[dict[str, object]] = [
        {**candidate, **_of_the_request(gateway, call, model, decision.record)}
        for candidate, model in zip(_candidates(decision.record, decision.proposal), decision.models, strict=True)
    ]
    candidates += [{"model": name, "eligible": False, "reason": why} for name, why in decision.refusals.items()]
    return {
        "object": "routing.decision",
        **_facts(gateway, decision.record),
        "candidates": candidates,
        "flips": await flips_of(gateway.decider, decision.record),
        **await planned(gateway, principal, call, decision),
        "neighbours": _neighbours(await gateway.decider.nearest(decision, principal.tenant)),
    }


async def recalled(gateway: Gateway, entries: Sequence[LogEntry], tenant: str) -> dict[str, object]:
    """A logged decision of the tenant, with what it cost and how it was judged.

    Raises: NotFound, for another tenant's decision too.
    """
    record = next((each for each in entries if isinstance(each, DecisionRecord)), None)
    if record is None or record.tenant != tenant:
        raise NotFound("this tenant has no such decision in the log")
    try:
        policy = gateway.decider.policy_of(record)
    except ValueError:
        raise NotFound(f"the policy {record.policy!r}, which decided it, is known no more") from None
    proposal = policy.distribute(record.context, record.evidence)
    decision = Decision(record, proposal, (), {})
    return {
        "object": "routing.decision",
        "decision_id": record.decision_id,
        **_facts(gateway, record),
        **outcome_of(entries),
        "candidates": _candidates(record, proposal),
        "flips": await flips_of(gateway.decider, record),
        "neighbours": _neighbours(await gateway.decider.nearest(decision, tenant)),
    }


def outcome_of(entries: Iterable[LogEntry]) -> dict[str, object]:
    """What came of a decision: what it cost and how it was judged, as far as the log knows."""
    found: dict[str, object] = {"judgements": (judgements := list[dict[str, object]]())}
    for each in entries:
        if isinstance(each, SettlementRecord):
            found |= {
                "outcome": each.outcome,
                "cost_usd": each.cost / NANO_PER_USD,
                "prompt_tokens": each.prompt_tokens,
                "completion_tokens": each.completion_tokens,
                "latency_ms": each.latency_ms,
                "first_byte_ms": each.first_byte_ms,
            }
        elif isinstance(each, Feedback) and not each.says_nothing:
            judgements.append({"score": each.score, "source": each.source, "at_ms": each.at_ms})
    return found


def _facts(gateway: Gateway, record: DecisionRecord) -> dict[str, object]:
    budget, price = record.context.budget, record.context.preference
    return {
        "model": record.model,
        "policy": record.policy,
        "policy_version": record.version,
        "preference": round(knob_of(price, reference_usd=gateway.decider.options.reference_usd), 9),
        "lambda_per_usd": price,
        "propensity": record.propensity,
        "budget": {"name": budget.name, "remaining_usd": budget.remaining} if budget.name else None,
    }


def _candidates(record: DecisionRecord, proposal: Proposal) -> list[dict[str, object]]:
    """What every candidate was expected to earn and cost."""
    context, estimates = record.context, proposal.estimates
    return [
        {
            "model": name,
            "eligible": True,
            "quality": float(estimates.quality[i]),
            "sigma": float(estimates.sigma[i]),
            "cost_usd": float(estimates.cost[i]),
            **({} if context.waiting is None else {"waiting_usd": float(context.waiting[i])}),
            **({} if context.cached is None else {"cached_share": float(context.cached[i])}),
            "price": float(proposal.prices[i]),
            "score": float(proposal.scores[i]),
            "probability": float(proposal.probabilities[i]),
        }
        for i, name in enumerate(context.names)
    ]


def _of_the_request(gateway: Gateway, call: Call, model: Model, record: DecisionRecord) -> Mapping[str, object]:
    """What a candidate would read, how long it would take, and what its tokens cost."""
    context, read = record.context, expected_prompt_tokens(model, call.requirements)
    if context.counted is not None:
        own = context.prompt_tokens * GENERIC_BYTES_PER_TOKEN / model.bytes_per_token
        read = round(own * float(context.counted[context.names.index(model.name)]))
    return {
        "prompt_tokens": read,
        "delay_s": gateway.decider.delays.of(model, call.requirements),
        "list_price": {"prompt": show_usd(model.price.prompt), "completion": show_usd(model.price.completion)},
        **_learned_price(gateway, model),
    }


def _learned_price(gateway: Gateway, model: Model) -> dict[str, object]:
    """USD per million tokens, and the answers they rest on; nothing where no machine's price is known."""
    price = gateway.decider.machine_pricing.price(model)
    if price is None:
        return {}
    per_million = {"prompt": price.prompt_usd * 1e6, "completion": price.completion_usd * 1e6}
    return {"learned_price": {**per_million, "answers": price.answers}}


def _neighbours(found: Iterable[Neighbour]) -> list[dict[str, object]]:
    return [
        {"text": each.text, "similarity": each.similarity, "scores": dict(each.scores), "history": each.history}
        for each in found
    ]
