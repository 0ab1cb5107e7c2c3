"""map_reduce: every part of a long input is asked about alone, and a last step puts the answers together.

The user's longest message is the input. A short paragraph or line at its end, or its beginning, is what is asked of it,
and goes with every part, as all other messages do. What cannot be split so that it fits is refused before anything is
sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from backends.dialects.chat import text_of
from backends.errors import Failed
from backends.types import Reply, Request, Whole
from backends.whole import decoded
from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from router.errors import InvalidRequest
from router.gateway.eligibility import Requirements, text_bytes
from router.programs.answers import said
from router.programs.plans import Part, RunPlan, Step, inner, same
from router.programs.running import Run, StepReply, fields_of, kept_of, messages_of, side_by_side
from router.programs.splitting import SLACK, longest, parts_of, question_of
from router.types import Model

FRAME = 0.25  # of a context: for what is asked, other messages and tools
ROOM = 0.9  # of a context, since tokens of a text are told by a mean
TEMPLATE_TOKENS = 32
SOURCE_BYTES = 48  # of "[part 12 of 40, bytes 12,345 to 13,456]"
_NONE = re.compile(r"\W*(?:none|no|nothing|n/a|not (?:found|mentioned|stated)|0)?\W*", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
PART_NOTE = 'This is part {part} of {of} of a longer text. Answer from this part alone, or say "none".'


@dataclass(frozen=True, slots=True)
class Split:
    """Of the parts of one input."""

    count: int
    part_bytes: int  # of the longest
    frame_bytes: int  # that what is asked may have
    why: str


@dataclass(frozen=True, slots=True)
class MapReduce:
    """`chunk_tokens` None: the cheapest that the contexts allow. `exact`: code puts the answers together."""

    map: Part
    reduce: Part
    at_once: int
    chunk_tokens: int | None
    part_tokens: int
    exact: str | None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.map, self.reduce)

    def plan(self, requirements: Requirements) -> RunPlan:
        """A step for each part, and the last one."""
        size = self._size(requirements)
        if size.count == 1:
            return RunPlan((Step("answer", self.map, same(requirements)),), self.at_once, size.why, self.exact is None)
        total, note = text_bytes(requirements), len(PART_NOTE)
        asked = inner(
            requirements,
            prompt_bytes=size.part_bytes + size.frame_bytes + note,
            completion_tokens=self.part_tokens,
            messages=requirements.messages + 2,
        )
        usual = -(-total // size.count) + note
        steps = [Step(f"map {i + 1}", self.map, asked, usual_bytes=usual) for i in range(size.count)]
        if self.exact is None:
            answers = size.count * (self._answer_bytes + SOURCE_BYTES)
            last = replace_bytes(same(requirements), answers + size.frame_bytes, requirements.messages + 2)
            steps.append(Step("reduce", self.reduce, last, stage=1, usual_bytes=answers // 4 + size.frame_bytes // 4))
        return RunPlan(tuple(steps), self.at_once, size.why)

    @property
    def _answer_bytes(self) -> int:
        """Of a part's answer, that the last step reads at most."""
        return 2 * round(self.part_tokens * max([m.bytes_per_token for m in self.map.models], default=4.0))

    def _size(self, requirements: Requirements) -> Split:
        """The cheapest that fits, or the one that was set."""
        total = text_bytes(requirements)
        sizes = {self._usable(model): model for model in self.map.may(requirements) or self.map.models}
        if not sizes:
            return Split(1, total, 0, "nobody reads the parts")
        fits = [self._for(requirements, total, usable, model) for usable, model in sorted(sizes.items())]
        if self.chunk_tokens is not None or len(fits) == 1:
            return fits[-1][1]
        costs = ", ".join(f"{size.part_bytes:,} bytes {cost / 1e9:.3g} USD" for cost, size in fits)
        best = min(fits, key=lambda each: each[0])[1]
        return replace(best, why=f"{best.why}, the cheapest of {costs}")

    def _for(self, requirements: Requirements, total: int, usable: int, model: Model) -> tuple[float, Split]:
        """(expected cost, parts) where the parts fill this model's context."""
        if self.chunk_tokens is not None:
            usable = min(usable, round(self.chunk_tokens * model.bytes_per_token / (1 - FRAME)))
        frame = int(usable * FRAME)
        room = max(1, usable - frame)
        asked = requirements.completion_tokens or PRIOR_COMPLETION_TOKENS
        if total <= usable:
            cost = model.price.prompt * total / model.bytes_per_token + model.price.completion * asked
            return cost / 1e6, Split(1, total, frame, f"one part holds it, which {model.name} reads")
        count = -int(-total * (1 + SLACK) // room)
        why = f"{count} parts of at most {longest(total, count):,} bytes, which {model.name} holds"
        cost = model.price.completion * self.part_tokens * count * 1.0
        cost += model.price.prompt * (total + frame * count) / model.bytes_per_token
        if self.exact is None and self.reduce.models:
            last = self.reduce.usual(requirements)
            cost += last.price.prompt * count * (self.part_tokens + SOURCE_BYTES / last.bytes_per_token)
            cost += last.price.completion * asked
        return cost / 1e6, Split(count, longest(total, count), frame, why)

    def _usable(self, model: Model) -> int:
        """Bytes of a prompt that its context holds beside an answer about a part."""
        return max(1, int((model.context_tokens - self.part_tokens - TEMPLATE_TOKENS) * model.bytes_per_token * ROOM))

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run. One part that cannot be asked about ends the run. Raises: InvalidRequest for a bad split."""
        steps = run.plan.steps
        if len(steps) == 1 and self.exact is not None:
            alone = await run.ask(steps[0], fields_of(request), request)
            return _exactly(alone, combined([said(alone.choice)], self.exact))
        if len(steps) == 1:
            return (await run.ask(steps[0], fields_of(request), request, streams=request.stream)).reply
        frame, pieces, question = self._split(run, request)
        asked = [self._asked(request, frame, _part_of(i, pieces), question) for i in range(len(pieces))]
        replies = await side_by_side([run.ask(steps[i], each, request) for i, each in enumerate(asked)], self.at_once)
        answers = [said(each.choice)[: self._answer_bytes] for each in replies]
        if self.exact is not None:
            return _exactly(replies[0], combined(answers, self.exact))
        fields = {
            **fields_of(request),
            "messages": [*frame, _user(_reduced(answers, pieces, self._answer_bytes), question)],
        }
        return (await run.ask(steps[-1], fields, request, streams=request.stream)).reply

    def _split(self, run: Run, request: Request) -> tuple[list[dict[str, Any]], list[bytes], str]:
        """(all other messages, the parts, what is asked). Raises: InvalidRequest where the rest leaves no room."""
        messages = messages_of(request)
        size = self._size(run.attempt.call.requirements)
        at = max(range(len(messages)), key=lambda i: (messages[i].get("role") == "user", len(text_of(messages[i]))))
        if run.attempt.call.requirements.images:
            raise InvalidRequest("a long input with images cannot be split", param="messages", code="cannot_split")
        text, question = question_of(text_of(messages[at]))
        frame = messages[:at] + messages[at + 1 :]
        beside = len(msgspec.json.encode(frame)) + len(question.encode(errors="replace"))
        beside += sum(len(request.fields[name]) for name in ("tools", "response_format") if name in request.fields)
        if beside > size.frame_bytes:
            raise InvalidRequest(
                f"what is asked of the long text, and what is sent beside it, has {beside} bytes, and a part's context "
                f"leaves {size.frame_bytes}: end the long message with a short question of its own",
                param="messages",
                code="cannot_split",
            )
        return frame, parts_of(text.encode(errors="replace"), size.count), question

    def _asked(self, request: Request, frame: list[dict[str, Any]], part: str, question: str) -> dict[str, object]:
        return {**kept_of(request), "messages": [*frame, _user(part, question)], "max_tokens": self.part_tokens}


def replace_bytes(requirements: Requirements, prompt_bytes: int, messages: int) -> Requirements:
    """The same requirements, of a text of another length."""
    return msgspec.structs.replace(requirements, prompt_bytes=prompt_bytes, messages=messages)


def _user(text: str, question: str) -> dict[str, Any]:
    return {"role": "user", "content": f"{text}\n\n{question}" if question else text}


def _part_of(place: int, pieces: Sequence[bytes]) -> str:
    return f"{PART_NOTE.format(part=place + 1, of=len(pieces))}\n\n{pieces[place].decode(errors='replace').strip()}"


def _reduced(answers: Sequence[str], pieces: Sequence[bytes], most: int) -> str:
    """The answers with where each comes from."""
    return "Answers from the parts of a longer text, in order.\n" + "\n".join(_sourced(answers, pieces, most))


def _sourced(answers: Sequence[str], pieces: Sequence[bytes], most: int) -> Iterator[str]:
    start = 0
    for number, (answer, piece) in enumerate(zip(answers, pieces, strict=True), 1):
        short = answer.encode(errors="replace")[:most].decode(errors="ignore")
        yield f"[part {number}, bytes {start}-{start + len(piece)}] {short}"
        start += len(piece)


def combined(answers: Sequence[str], how: str) -> str:
    """What code makes of the parts' answers: a sum, a count or the largest of numbers, or the distinct answers."""
    real = [answer for answer in answers if _NONE.fullmatch(answer) is None]
    if how == "count":
        return str(len(real))
    if how == "merge":
        return "\n".join(dict.fromkeys(real)) or "none"
    numbers = [float(found[-1].replace(",", "")) for answer in real if (found := _NUMBER.findall(answer))]
    total = (sum(numbers) if how == "sum" else max(numbers)) if numbers else 0.0
    return f"{total:g}" if abs(total) < 1e6 else f"{total:.0f}"


def _exactly(first: StepReply, text: str) -> Reply:
    """A step's answer with another text. Raises: Failed where it is no answer."""
    if not isinstance(first.reply, Whole):
        raise Failed("answered a stream to a plain request", backend="program")
    answer = decoded(first.reply.body)
    answer["choices"] = [{**answer["choices"][0], "message": {"role": "assistant", "content": text}}]
    return Whole(msgspec.json.encode(answer), first.reply.report)
