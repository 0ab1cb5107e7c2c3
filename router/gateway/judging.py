"""A share of answers is shown to a judge: another model, asked by an ordinary request of the tenant that pays for it.

What is judged is drawn where it tells most, with a probability that is logged. It happens after the answer was sent;
a judge that is away, out of budget or says nothing costs the verdict and is counted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import numpy as np

from router.errors import PointsmanError
from router.gateway.answers import RelayedAnswer
from router.gateway.eligibility import Requirements
from router.gateway.shown import CHAT, shown_answer
from router.gateway.types import Attempt, Call, Decision, JudgeRules, Metrics
from router.learning.judges import absolute, pairwise, preference_of, score_of
from router.types import Principal

LOG = logging.getLogger("pointsman.judging")
AT_ONCE = 8  # verdicts that are waited for; what is drawn beyond them is not judged
WIDEST = 4.0  # the share is at most so many times, and at least one part of so many, what the settings say
MEMORY = 0.99  # of how much verdicts have told
Ask = Callable[[Principal, Call], Awaitable[RelayedAnswer]]
Find = Callable[[str], Awaitable[Principal | None]]


def worth_judging(decision: Decision) -> float:
    """σ of the model that answered times its gap to the best other: what is uncertain and matters."""
    proposal, names = decision.proposal, decision.record.context.names
    chosen = names.index(decision.record.model)
    others = [float(score) for place, score in enumerate(proposal.scores) if place != chosen and np.isfinite(score)]
    if not others or not np.isfinite(proposal.scores[chosen]):
        return 0.0
    return float(proposal.estimates.sigma[chosen]) * abs(float(proposal.scores[chosen]) - max(others))


class Judging:
    """Draws answers, asks judges, and hands verdicts to `record`. `find` says whom a secret stands for."""

    def __init__(self, ask: Ask, record: Callable[..., Awaitable[None]], metrics: Metrics) -> None:
        self.find: Find = _nobody
        self._ask, self._record, self._metrics = ask, record, metrics
        self._draws = np.random.default_rng()
        self._usual = 0.0  # worth of judging the usual answer
        self._tasks: set[asyncio.Task[None]] = set()

    def chance(self, decision: Decision, share: float) -> float:
        """P(judged) of this answer: `share` in the mean, more where a verdict tells more, never nothing."""
        worth = worth_judging(decision)
        self._usual = worth if self._usual == 0.0 else MEMORY * self._usual + (1.0 - MEMORY) * worth
        factor = worth / self._usual if self._usual > 0.0 else 1.0
        return min(1.0, share * min(max(factor, 1.0 / WIDEST), WIDEST))

    def consider(self, attempt: Attempt, text: str, rules: JudgeRules, believed: Callable[[str], float]) -> None:
        """Perhaps have this answer judged; returns at once. `believed` says how reliable a source is."""
        judge = next((name for name in rules.models if _may_judge(name, attempt)), None)
        chance = self.chance(attempt.decision, rules.share)
        if judge is None or self._draws.random() >= chance:
            return
        if len(self._tasks) >= AT_ONCE:
            self._metrics.judged(f"judge:{judge}", "busy")
            return
        task = asyncio.ensure_future(self._judge(attempt, text, rules, judge, (chance, believed)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def waiting(self) -> int:
        """Verdicts that are waited for."""
        return len(self._tasks)

    async def aclose(self) -> None:
        """Stop waiting for verdicts; what was asked is settled."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _judge(
        self, attempt: Attempt, text: str, rules: JudgeRules, judge: str, drawn: tuple[float, Callable[[str], float]]
    ) -> None:
        source, (chance, believed) = f"judge:{judge}", drawn
        try:
            score = await self._verdict(attempt, text, rules, judge)
        except PointsmanError as error:
            self._metrics.judged(source, error.code or error.type)
            return
        except Exception:
            LOG.exception("an answer could not be judged by %s", judge)
            self._metrics.judged(source, "failed")
            return
        self._metrics.judged(source, "no_verdict" if score is None else "judged")
        if score is not None:
            await self._record(attempt, score, source, believed(source), propensity=chance)

    async def _verdict(self, attempt: Attempt, text: str, rules: JudgeRules, judge: str) -> float | None:
        """In [0, 1]; None where the reply says nothing. Raises: PointsmanError."""
        payer = await self.find(rules.key)
        if payer is None:
            raise PointsmanError("the key that judging is charged to is not valid", code="invalid_api_key")
        stays = attempt.principal.local_only or attempt.call.requirements.local_only
        payer = replace(payer, local_only=payer.local_only or stays, learn_from=())
        mark, question = secrets.token_hex(8), attempt.call.text
        if not rules.pairwise:
            asked = absolute(question, text, rubric=rules.rubric, mark=mark)
            return score_of(await self._said(payer, _judge_call(asked, judge, rules)))
        rival = _rival(attempt, judge)
        if rival is None:
            return None
        other = await self._said(payer, _again(attempt.call, rival))
        if not other:
            return None  # a call of a tool, or nothing: no text to put beside the answer's
        swapped = bool(self._draws.random() < 0.5)
        answers = (other, text) if swapped else (text, other)
        asked = pairwise(question, answers, rubric=rules.rubric, mark=mark)
        return preference_of(await self._said(payer, _judge_call(asked, judge, rules)), swapped=swapped)

    async def _said(self, payer: Principal, call: Call) -> str:
        """The text of an answer, reserved, settled and logged as every request is. Raises: PointsmanError."""
        answer = await self._ask(payer, call)
        try:
            body = b"".join([chunk async for chunk in answer])
        finally:
            await answer.close()
        shown = shown_answer(call.path, body, streamed=False)
        return "" if shown is None else shown.text


def _may_judge(name: str, attempt: Attempt) -> bool:
    """Never the model that answered, or had a part in the answer, and no model that the one who asked may not use."""
    allowed = attempt.principal.allowed_models, attempt.call.requirements.allowed
    had_part = name == attempt.model.name or name in attempt.asked
    return not had_part and all(each is None or name in each for each in allowed)


def _rival(attempt: Attempt, judge: str) -> str | None:
    """The best of the models that did not answer."""
    scores = attempt.decision.proposal.scores
    names = attempt.decision.record.context.names
    order = [names[place] for place in np.argsort(-scores, kind="stable") if np.isfinite(scores[place])]
    return next((name for name in order if name not in (attempt.model.name, judge)), None)


def _judge_call(messages: list[dict[str, str]], judge: str, rules: JudgeRules) -> Call:
    """Its text is not embedded and not kept: what one tenant asked is no evidence for another."""
    values = {"messages": messages, "max_tokens": rules.max_tokens, "temperature": 0.0}
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in values.items()}
    requirements = Requirements(
        frozenset({"chat"}), len(bytes(fields["messages"])), rules.max_tokens, pinned=judge, messages=len(messages)
    )
    return Call(CHAT, fields, "", requirements)


def _again(call: Call, model: str) -> Call:
    """The same question to another model, as a plain answer."""
    fields = {key: raw for key, raw in call.fields.items() if key not in ("stream", "stream_options", "routing")}
    requirements = msgspec.structs.replace(call.requirements, pinned=model)
    return replace(
        call,
        fields=fields,
        text="",
        requirements=requirements,
        stream=False,
        wants_usage=True,
        session=None,
        headers={},
    )


async def _nobody(_: str) -> Principal | None:
    return None
