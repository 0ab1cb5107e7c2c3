"""Feedback that nobody has to give: what rules, an answer's own signature and a judge say of it.

It runs after the answer has been sent, and each word is a judgement in the log with how far it is believed. What cannot
be read is left as it is.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backends.whole import decoded
from policies.records import SAYS_NOTHING
from policies.signature import chat_signature
from router.errors import RequestRejected, StoreUnavailable
from router.gateway.deciding import Decider
from router.gateway.judging import Ask, Judging
from router.gateway.looks import expected_tokens
from router.gateway.shown import CHAT, ShownAnswer, shown_answer
from router.gateway.types import Attempt, Call, Metrics
from router.learning.graders.validators import Grade, grade_chat
from router.ports import OutcomeLog
from router.types import Feedback

LOG = logging.getLogger("pointsman.observing")
MOST_SEEN = 2 * 2**20  # bytes of an answer that is looked at
_JUDGED = (CHAT, "/v1/messages", "/v1/responses")  # paths that a judge can follow


class SeenStream:
    """The parts of a stream as they are relayed, up to a length."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Keep a part; nothing is read before the end."""
        self._size += len(part)
        if self._size <= MOST_SEEN:
            self._parts.append(part)

    def data(self) -> bytes | None:
        """All of it; None where it was too long."""
        return b"".join(self._parts) if self._size <= MOST_SEEN else None


class Observer:
    """Looks at answers that were sent."""

    def __init__(
        self, decider: Decider, log: OutcomeLog, *, ask: Ask, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._decider, self._log, self._clock = decider, log, clock
        self.judging = Judging(ask, self._say, metrics)

    def looks(self, attempt: Attempt) -> bool:
        """Whether anything can be learned of this answer by looking at it."""
        options, call = self._decider.options, attempt.call
        sources = options.sources_of(attempt.principal)
        if "graders" in sources and (has_schema(call) or (options.learning.rules and self._rules(attempt))):
            return True
        judged = "judge" in sources and options.learning.judge is not None and call.path in _JUDGED
        return judged or ("signature" in sources and call.path == CHAT)

    async def observe(self, attempt: Attempt, data: bytes | None, *, streamed: bool) -> None:
        """Log what can be said of a whole answer. Nobody waits for it, so nothing fails here."""
        if data is None or len(data) > MOST_SEEN:
            return
        try:
            shown = shown_answer(attempt.call.path, data, streamed=streamed)
            if shown is not None:
                await self._observe(attempt, shown)
        except Exception:
            LOG.exception("an answer could not be looked at")

    async def _observe(self, attempt: Attempt, shown: ShownAnswer) -> None:
        options = self._decider.options
        sources = options.sources_of(attempt.principal)
        if "graders" in sources:
            for grade in self._grades(attempt, shown):
                comment = "; ".join(grade.problems)[:4000] or None
                await self._say(attempt, grade.score, grade.source, grade.reliability, comment=comment)
        if "signature" in sources and attempt.call.path == CHAT:
            await self._read_signature(attempt, shown)
        judge = options.learning.judge
        if "judge" in sources and judge is not None and attempt.call.path in _JUDGED and shown.text:
            self.judging.consider(attempt, shown.text, judge, self._decider.believed)

    def _rules(self, attempt: Attempt) -> list[Any]:
        tenant, call = attempt.principal.tenant, attempt.call
        route = call.alias or call.requirements.pinned or "auto"
        return [rule for rule in self._decider.options.learning.rules if rule.holds_for(route, tenant)]

    def _grades(self, attempt: Attempt, shown: ShownAnswer) -> Iterator[Grade]:
        """By the request's own tools and schema, and by the operator's rules; the least of the latter counts."""
        grades = [rule.grade(shown.text) for rule in self._rules(attempt)]
        if grades:
            yield min(grades, key=lambda grade: grade.score)
        if has_schema(attempt.call) and shown.choice:
            try:
                request = {key: decoded(bytes(raw)) for key, raw in attempt.call.fields.items()}
            except (ValueError, RecursionError):  # numbers and brackets that only a generous engine reads
                return
            grade = grade_chat(request, shown.choice)
            if grade is not None:
                yield grade

    async def _read_signature(self, attempt: Attempt, shown: ShownAnswer) -> None:
        """Note how the answer looks, and what that says where the model's answers can be read."""
        features = attempt.looks
        if not features:
            tokens, expected = attempt.completion_tokens, expected_tokens(attempt)
            with contextlib.suppress(ValueError):  # malformed logprobs say nothing
                found = chat_signature(shown.choice, tokens=tokens, expected=expected, text=shown.text)
                features = found.astype("<f4").tobytes()
        if features:
            found = np.frombuffer(features, "<f4").astype(np.float64)
            score, believed = self._decider.reads(attempt.model.name, found)
            await self._say(attempt, score, "signature", max(believed, SAYS_NOTHING), features=features)

    async def _say(self, attempt: Attempt, score: float, source: str, reliability: float, **more: Any) -> None:
        decision_id, at_ms = attempt.decision.decision_id, int(self._clock() * 1000)
        given = Feedback(decision_id, at_ms, score, source, reliability, tenant=attempt.principal.tenant, **more)
        with contextlib.suppress(RequestRejected, StoreUnavailable):  # nobody waits for it: the next one may do
            await self._log.judge(given)


def has_schema(call: Call) -> bool:
    """Whether the request itself says enough of its answer to grade it."""
    return call.path == CHAT and ("tools" in call.fields or "response_format" in call.fields)
