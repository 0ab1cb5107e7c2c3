"""An answer that came whole: its body for the client, and what is read of it in passing.

Fails with Failed where it is no JSON object or holds an error. What an engine writes beside its answer (a strange
usage, a number that is none, brackets without end) is no reason to throw a paid answer away.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from backends.errors import Failed
from backends.types import Reply, Report, Request, Whole
from backends.usage import usage_of
from backends.visible import ShownText

MODEL = re.compile(rb'"model": ?"((?:[^"\\]|\\.)*)"')
ID = re.compile(rb'"id": ?"([^"\\]*)"')
FINISH = re.compile(rb'_reason": ?"([^"\\]*)"')  # of finish_reason and stop_reason
_SKIMMED = (("id", ID), ("model", MODEL), ("reason", FINISH))


class _Inner(msgspec.Struct):
    usage: Any = None
    service_tier: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class Said(msgspec.Struct):
    """What is read of a plain answer, or of an event that carries usage."""

    id: str | None = None
    model: str | None = None
    usage: Any = None
    choices: list[_Choice] | None = None
    stop_reason: str | None = None
    status: str | None = None
    service_tier: Any = None
    message: _Inner | None = None  # message_start
    response: _Inner | None = None  # response.completed
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(Said).decode


def whole(body: bytes, *, request: Request, backend: str) -> Whole:
    """The reply to a plain request. Raises: Failed."""
    body = mended(body)
    try:
        said = read(body)
    except ValueError as problem:
        raise Failed(f"answered something that is no answer ({problem})", backend=backend) from problem
    if bytes(said.error) not in {b"", b"null"}:
        raise Failed("answered an error under status 200", backend=backend)
    report = Report(
        usage_of(said.usage, said.service_tier),
        complete=True,
        response_id=said.id,
        finish_reason=_finish_reason(said),
        shown=ShownText(request.path, body),
    )
    return Whole(_renamed(body, said.model, request.answers_as), report)


def mended(text: bytes) -> bytes:
    """The same, with U+FFFD for what is not UTF-8: byte-level models cut letters in two, and strict clients fail."""
    if text.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode(errors="replace").encode()
    return text


async def read_all(reply: Reply) -> bytes:
    """Everything a reply relays; a stream is closed."""
    if isinstance(reply, Whole):
        return reply.body
    try:
        return b"".join([block async for block in reply])
    finally:
        await reply.aclose()


def read(data: bytes) -> Said:
    """What is read of an answer. Raises: ValueError where it is no JSON object."""
    try:
        try:
            return _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _read_leniently(data)
    except RecursionError:  # brackets in brackets, which no decoder follows: what is needed is found without one
        return _skimmed(data)


def _skimmed(data: bytes) -> Said:
    if not (data.lstrip().startswith(b"{") and data.rstrip().endswith(b"}")):
        raise ValueError("it is no object")
    found = {name: match[1].decode(errors="replace") for name, key in _SKIMMED if (match := key.search(data))}
    return Said(found.get("id"), found.get("model"), stop_reason=found.get("reason"))


def _read_leniently(data: bytes) -> Said:
    """The same of what Python engines send where a number is none (NaN), or a field is not of its usual type."""
    said = decoded(data)
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    choices, texts = said.get("choices"), {}
    for name in ("id", "model", "stop_reason", "status"):
        texts[name] = found if isinstance(found := said.get(name), str) else None
    listed = choices if isinstance(choices, list) else []
    reasons = [each.get("finish_reason") for each in listed if isinstance(each, dict)]
    return Said(
        **texts,
        usage=said.get("usage"),
        service_tier=said.get("service_tier"),
        choices=[_Choice(why if isinstance(why, str) else None) for why in reasons] if choices is listed else None,
        message=_inner(said.get("message")) or _Inner(),
        response=_inner(said.get("response")),
        error=msgspec.Raw(b"" if said.get("error") is None else b"{}"),
    )


def decoded(data: bytes) -> Any:
    """JSON as a decoder reads it, and what engines write beside: None for NaN and Infinity, U+FFFD for half a letter,
    escaped or not. What is returned can be written again. Raises: ValueError, RecursionError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = data.decode(errors="replace")
        return _written(json.loads(text, parse_int=_integer, parse_constant=_no_number))


def _written(said: Any) -> Any:
    """The same, where each text is one."""
    if isinstance(said, str):
        return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(said, list):
        return [_written(each) for each in said]
    if isinstance(said, dict):
        return {_written(key): _written(each) for key, each in said.items()}
    return said


def _no_number(_: str) -> None:
    """What NaN means."""


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 30 else float("inf")


def _inner(said: object) -> _Inner | None:
    return _Inner(said.get("usage"), said.get("service_tier")) if isinstance(said, dict) else None


def _finish_reason(answer: Said) -> str | None:
    if answer.choices:
        return answer.choices[0].finish_reason
    return answer.stop_reason or answer.status


def _renamed(body: bytes, model: str | None, answers_as: str) -> bytes:
    if model is None or model == answers_as:
        return body
    old, new = msgspec.json.encode(model), msgspec.json.encode(answers_as)
    for colon in (b'"model":', b'"model": '):
        if colon + old in body:
            return body.replace(colon + old, colon + new, 1)
    return body
