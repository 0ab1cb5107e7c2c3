"""POST /v1/route, the decision without the call, and POST /v1/feedback, what came of it."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.preference import knob_of
from router.errors import Forbidden, InvalidRequest
from router.gateway.eligibility import bounded, expected_prompt_tokens
from router.gateway.serving import Gateway
from router.gateway.types import Call, Decision, usd
from router.http.auth import Authentication, key_first, require_admin
from router.http.inference import preference_of
from router.http.rates import Rates
from router.http.schemas import parse
from router.programs.explaining import plan_of, shown
from router.settings.sections import FeedbackSection
from router.stores.open import Stores
from router.types import Feedback, Model, Principal

LONGEST_ID = 512  # characters: providers encode much into the ids of their responses


class FeedbackBody(BaseModel):
    """A judgement of one answer, by its decision id or its response id."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str | None = Field(None, max_length=LONGEST_ID)
    response_id: str | None = Field(None, max_length=LONGEST_ID)
    score: float | None = Field(None, ge=0, le=1, description="0 is worthless, 1 is perfect")
    thumbs: Literal["up", "down"] | None = None
    comment: str | None = Field(None, max_length=4000)
    replace: bool = Field(False, description="let this judgement take the place of an earlier one of the same key")
    tenant: str | None = Field(None, max_length=128, description="whose decision it is, for admin keys with that right")

    @model_validator(mode="after")
    def _complete(self) -> FeedbackBody:
        if (self.decision_id is None) == (self.response_id is None):
            raise ValueError("give decision_id or response_id, one of them")
        if (self.score is None) == (self.thumbs is None):
            raise ValueError("give score or thumbs, one of them")
        return self

    @property
    def value(self) -> float:
        """The score in [0, 1]."""
        return self.score if self.score is not None else float(self.thumbs == "up")


def must_judge_for_others(principal: Principal, *, allowed: bool) -> None:
    """Raises: Forbidden unless it is an admin's key and the settings give admin keys this right."""
    require_admin(principal)
    if not allowed:
        raise Forbidden("admin keys judge for other tenants only where feedback.by_admins is true", param="tenant")


def routes(gateway: Gateway, stores: Stores, authentication: Authentication, *, rules: FeedbackSection) -> APIRouter:
    """The router for both."""
    by_key = Rates("judgements", rules.per_key, clock=time.monotonic)
    by_tenant = Rates("judgements", rules.per_tenant, clock=time.monotonic)
    router = APIRouter(prefix="/v1", route_class=key_first(authentication))

    @router.post("/route")
    async def route(request: Request) -> Response:
        """Decide as POST /v1/chat/completions would, and explain instead of calling."""
        principal: Principal = request.state.principal
        header = request.headers.get("x-pointsman-preference")
        knob = preference_of(header.encode() if header is not None else None)
        call = parse(
            "/v1/chat/completions",
            await request.body(),
            {},
            preference=knob,
            aliases=gateway.decider.options.aliases,
        )
        call.needs = bounded(call.needs, principal)
        decision = await gateway.explain(principal, call)
        found = await explain(gateway, call, decision, principal.tenant)
        return Response(msgspec.json.encode(found), media_type="application/json")

    @router.post("/feedback")
    async def feedback(body: FeedbackBody, request: Request) -> dict[str, object]:
        """Record a judgement. The same one again changes nothing; another one needs `replace`."""
        principal: Principal = request.state.principal
        by_key.take(f"key:{principal.key_id}")
        by_tenant.take(f"tenant:{principal.tenant}")
        judged = body.decision_id or body.response_id
        if judged is None:
            raise InvalidRequest("give decision_id or response_id", param="decision_id")
        given = Feedback(
            judged,
            int(time.time() * 1000),
            body.value,
            comment=body.comment,
            replace=body.replace,
            tenant=principal.tenant if body.tenant is None else body.tenant,
            key_id=principal.key_id,
            by_admin=body.tenant is not None,
        )
        if given.by_admin:
            must_judge_for_others(principal, allowed=rules.by_admins)
        recorded = await stores.log.judge(given)
        if given.by_admin:
            await stores.audit.note("feedback.by_admin", judged, {"tenant": given.tenant, "by": principal.key_id})
        return {"object": "feedback", "decision_id": judged, "score": body.value, "recorded": recorded}

    return router


def _learned_price(gateway: Gateway, model: Model) -> dict[str, object]:
    """USD per million tokens, and the answers they rest on; nothing where no machine's price is known."""
    price = gateway.decider.renting.price(model)
    if price is None:
        return {}
    per_million = {"prompt": price.prompt_usd * 1e6, "completion": price.completion_usd * 1e6}
    return {"learned_price": {**per_million, "answers": price.answers}}


async def explain(gateway: Gateway, call: Call, decision: Decision, tenant: str) -> dict[str, object]:
    """A decision with its evidence, as JSON values: money in USD, λ in 1/USD. Neighbours are the tenant's own."""
    record, proposal, estimates = decision.record, decision.proposal, decision.proposal.estimates
    purse, price = record.context.purse, record.context.preference
    candidates: list[dict[str, object]] = [
        {
            "model": model.name,
            "eligible": True,
            "quality": float(estimates.quality[i]),
            "sigma": float(estimates.sigma[i]),
            "cost_usd": float(estimates.cost[i]),
            **({} if record.context.waiting is None else {"waiting_usd": float(record.context.waiting[i])}),
            **({} if record.context.cached is None else {"cached_share": float(record.context.cached[i])}),
            "price": float(proposal.prices[i]),
            "score": float(proposal.scores[i]),
            "probability": float(proposal.probabilities[i]),
            "prompt_tokens": expected_prompt_tokens(model, call.needs),
            "delay_s": gateway.decider.delays.of(model, call.needs),
            "list_price": {"prompt": usd(model.price.prompt), "completion": usd(model.price.completion)},
            **_learned_price(gateway, model),
        }
        for i, model in enumerate(decision.models)
    ]
    candidates += [{"model": name, "eligible": False, "reason": why} for name, why in decision.refusals.items()]
    plan = plan_of(decision.model, call.needs)
    return {
        "object": "routing.decision",
        "model": record.model,
        "policy": record.policy,
        "policy_version": record.version,
        "preference": round(knob_of(price, reference_usd=gateway.decider.options.reference_usd), 9),
        "lambda_per_usd": price,
        "propensity": record.propensity,
        "budget": {"name": purse.name, "remaining_usd": purse.remaining} if purse.name else None,
        "candidates": candidates,
        **({} if plan is None else {"plan": shown(plan, gateway)}),
        "neighbours": [
            {"text": each.text, "similarity": each.similarity, "scores": dict(each.scores), "history": each.history}
            for each in await gateway.decider.nearest(decision, tenant)
        ],
    }
