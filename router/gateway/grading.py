"""Feedback that nobody has to give: what a request's own tools and response format say of the answer.

It runs after the answer has been sent. What cannot be graded is left ungraded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.gateway.types import Attempt, Call
from router.learning.graders.validators import grade_chat
from router.types import Feedback


def has_rules(call: Call) -> bool:
    """Whether the request says enough of its answer to grade it."""
    return call.path == "/v1/chat/completions" and ("tools" in call.fields or "response_format" in call.fields)


def graded(attempt: Attempt, body: bytes, at_ms: int) -> Feedback | None:
    """The grade of the first choice of a plain answer, as feedback; None where the rules say nothing."""
    try:
        choice: dict[str, Any] = msgspec.json.decode(body)["choices"][0]
        request = {key: msgspec.json.decode(raw) for key, raw in attempt.call.fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    grade = grade_chat(request, choice)
    if grade is None:
        return None
    comment = "; ".join(grade.problems) or None
    return Feedback(
        attempt.decision.decision_id,
        at_ms,
        grade.score,
        grade.source,
        grade.reliability,
        comment,
        tenant=attempt.principal.tenant,
    )
