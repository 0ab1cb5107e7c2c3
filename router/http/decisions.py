"""POST /v1/route, the decision without the call, GET /v1/decisions, one that was made, and POST /v1/feedback."""

from __future__ import annotations

import contextlib
import time
from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from router.errors import Forbidden, InvalidRequest, RequestRejected
from router.gateway.eligibility import bounded
from router.gateway.serving import Gateway
from router.http.auth import Authentication, key_first, require_admin
from router.http.explaining import explain, recalled
from router.http.inference import preference_of
from router.http.rates import Rates
from router.http.schemas import parse
from router.learning.session_turns import SOURCE, credits
from router.ports import OutcomeLog
from router.settings.sections import FeedbackSection
from router.stores.open import Stores
from router.types import Feedback, Principal, now_ms

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


async def _credit(gateway: Gateway, log: OutcomeLog, given: Feedback, *, share: float) -> int:
    """Pass a judgement on to the earlier turns of its conversation, less and less of it; to how many. They are logged
    with a source of their own, so that how far it can be believed is measured, and a person's own word stands."""
    turns = gateway.decider.turns_before(given.tenant, given.decision_id)
    weights = credits(share, len(turns))
    for turn, weight in zip(turns, weights, strict=False):
        said = Feedback(
            turn,
            given.at_ms,
            given.score,
            SOURCE,
            weight,
            comment=f"of {given.decision_id}, a later turn",
            replace=True,
            tenant=given.tenant,
        )
        with contextlib.suppress(RequestRejected):  # the log may have forgotten that turn
            await log.judge(said)
    return len(weights)


async def _record(
    gateway: Gateway, stores: Stores, principal: Principal, body: FeedbackBody, rules: FeedbackSection
) -> dict[str, object]:
    """One judgement, by its own tenant or by an admin for another. Raises: InvalidRequest, and as OutcomeLog.judge."""
    judged = body.decision_id or body.response_id
    if judged is None:
        raise InvalidRequest("give decision_id or response_id", param="decision_id")
    given = Feedback(
        judged,
        now_ms(),
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
    credited = await _credit(gateway, stores.log, given, share=rules.credit) if recorded else 0
    if given.by_admin:
        await stores.audit.note("feedback.by_admin", judged, {"tenant": given.tenant, "by": principal.key_id})
    shown = {"object": "feedback", "decision_id": judged, "score": body.value, "recorded": recorded}
    return {**shown, "credited": credited} if credited else shown


def routes(gateway: Gateway, stores: Stores, authentication: Authentication, *, rules: FeedbackSection) -> APIRouter:
    """The router of these."""
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
        call.requirements = bounded(call.requirements, principal)
        decision = await gateway.explain(principal, call)
        found = await explain(gateway, call, decision, principal)
        return Response(msgspec.json.encode(found), media_type="application/json")

    @router.get("/decisions/{decision_id}")
    async def decision(decision_id: str, request: Request) -> Response:
        """A decision of the asking tenant as it is logged, with what came of it."""
        principal: Principal = request.state.principal
        found = await recalled(gateway, await stores.log.of(decision_id), principal.tenant)
        return Response(msgspec.json.encode(found), media_type="application/json")

    @router.post("/feedback")
    async def feedback(body: FeedbackBody, request: Request) -> dict[str, object]:
        """Record a judgement. The same one again changes nothing; another one needs `replace`."""
        principal: Principal = request.state.principal
        by_key.take(f"key:{principal.key_id}")
        by_tenant.take(f"tenant:{principal.tenant}")
        return await _record(gateway, stores, principal, body, rules)

    @router.delete("/cache")
    async def purge(request: Request) -> dict[str, object]:
        """Forget all answers that are stored of the caller's tenant."""
        return {"object": "cache.purged", "answers": await gateway.forget_answers(request.state.principal.tenant)}

    return router
