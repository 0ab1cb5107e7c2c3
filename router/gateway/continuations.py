"""Turns that only the model of the turn before can take: open calls of tools, thoughts that it has signed, and answers
that its engine keeps.

Another model would answer with an error, so this is no price. Pure; what cannot be read ties nobody.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import lru_cache
from hashlib import blake2b

import msgspec

from backends.types import Reply, Report, Stream, Whole
from policies.types import Arm
from router.gateway.types import Attempt, Call, Candidates, arm_of
from router.learning.turn_holders import TurnHolders

MOST_MARKS = 64  # of one answer
MOST_ITEMS = 256  # of a request, from its end, that are looked through
_TALK = ("messages", "input")
_BEFORE = "previous_response_id"  # where the gateway itself keeps no answers, an engine does
_TEXT = rb'\s*:\s*"((?:[^"\\]|\\.){1,4096})"'
_RESULTS = re.compile(rb'"(?:tool_call_id|tool_use_id|call_id)"' + _TEXT)  # of calls that an answer made
_SIGNED = re.compile(rb'"(?:signature|encrypted_content)"' + _TEXT)
_MADE = re.compile(rb'"(?:id|call_id)"' + _TEXT)
_CALLS = re.compile(rb'"(?:tool_calls|tool_use|function_call|custom_tool_call)"')
_HINT = re.compile(rb'"(?:tool_call_id|tool_use_id|call_id|signature|encrypted_content)"')
_ANSWERED = re.compile(rb'"role"\s*:\s*"assistant"')
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
THINKS = frozenset({"thinking", "reasoning"})  # fields by which a client asks for thoughts


class WatchedStream:
    """A stream whose calls and signatures are noted. See Stream."""

    def __init__(self, reply: Stream, attempt: Attempt) -> None:
        self._reply, self._attempt = reply, attempt

    @property
    def report(self) -> Report:
        """The engine's own."""
        return self._reply.report

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._reply:
            _note(self._attempt, block)
            yield block

    async def aclose(self) -> None:
        """Stop at once."""
        await self._reply.aclose()


def watched(reply: Reply, attempt: Attempt) -> Reply:
    """The reply; what ties the next turn to its model is noted in the attempt."""
    if not isinstance(reply, Whole):
        return WatchedStream(reply, attempt)
    _note(attempt, reply.body)
    return reply


def mark_answer(attempt: Attempt, report: Report | None) -> None:
    """Note an answer of Responses, which its engine may keep."""
    if report is not None and report.response_id is not None:
        attempt.marks.append(mark_of(attempt.principal.tenant, report.response_id.encode()))


def tied(candidates: Candidates, holders: TurnHolders, tenant: str, call: Call) -> Candidates:
    """The one candidate that made what this turn goes on from; all of them where that is none of these."""
    field = next((name for name in _TALK if name in call.fields), None)
    known = [] if field is None or _HINT.search(call.fields[field]) is None else _open(call.fields[field])
    if _BEFORE in call.fields:
        known.append(bytes(call.fields[_BEFORE]).strip(b'"'))
    if not known:
        return candidates
    name = holders.holder([mark_of(tenant, each) for each in known])
    model = next((model for model in candidates.models if model.name == name), None)
    if model is None:
        return candidates
    why = f"the conversation goes on from a call, a signed thought or a kept answer of {name}"
    others = {each: why for each in candidates.names if each != name}
    caches = model.price.cached is not None
    arms, refusals = _alone(arm_of(model)), {**candidates.refusals, **others}
    return Candidates((model,), refusals, (model.name,), arms, model.budgets, model.max_output_tokens, caches)


def mark_of(tenant: str, text: bytes) -> str:
    """A digest of an id or a signature, of this tenant's."""
    return blake2b(tenant.encode() + b"\0" + text, digest_size=8).hexdigest()


def _open(talk: msgspec.Raw) -> list[bytes]:
    """What the last turn of a model made, and what was sent of it since."""
    found: list[bytes] = []
    try:
        items = _items(talk)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return found
    for item in reversed(items[-MOST_ITEMS:]):
        signed = _SIGNED.findall(item)
        found += [*_RESULTS.findall(item), *signed]
        if signed or _ANSWERED.search(item) is not None:
            break
    return found


def _note(attempt: Attempt, block: bytes) -> None:
    made = _MADE.findall(block) if _CALLS.search(block) is not None else []
    for text in (*made, *_SIGNED.findall(block)):
        if len(attempt.marks) < MOST_MARKS:
            attempt.marks.append(mark_of(attempt.principal.tenant, text))


@lru_cache(maxsize=256)
def _alone(arm: Arm) -> tuple[Arm, ...]:
    """The same tuple for the same arm, so that whoever keeps something by arms finds it again."""
    return (arm,)
