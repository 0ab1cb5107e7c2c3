"""The hot path: one ASGI application for every route that calls a model.

No framework stands between the server and the gateway here. Errors leave in the caller's API shape, and a client that
hangs up stops the engine at once and is still charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time

import msgspec
from starlette.types import Receive, Scope, Send

from backends.types import Whole
from router.errors import InvalidRequest, NoCandidate, PointsmanError, StoreUnavailable, UpstreamFailed
from router.gateway.answers import RelayedAnswer
from router.gateway.crowd import Crowd
from router.gateway.observing import SeenStream
from router.gateway.serving import Gateway
from router.gateway.types import Call, ServedRequest, Timings
from router.http.auth import Authentication, secret_of
from router.http.connections import CONNECTION, Patient
from router.http.conversations import PATH as RESPONSES
from router.http.conversations import ResponsesKept, Turn
from router.http.doors import DEPLOYMENT
from router.http.errors import Headers, error_body, error_event, error_headers
from router.http.intake import Gone, whole_body
from router.http.presence import Presence
from router.http.schemas import PATHS, parse, with_field
from router.http.stopping import Stopping
from router.http.tags import FIELDS, TAGS, tags_of, untagged
from router.types import Allowance, Principal, show_usd

LOG = logging.getLogger("pointsman.inference")
_IDS = random.Random()  # seeded by the system in each process; ids must differ, nobody need not guess them
_PASSED_ON = {
    name.encode(): name
    for name in (
        *("traceparent", "tracestate", "x-session-id"),
        *("anthropic-version", "anthropic-beta", "openai-beta", "openai-organization"),
    )
}
GONE = 499  # the status of a request whose client left before it had one
LAST_WORD_S = 1.0  # for a client to take the event that says why its stream ends
_STOPS = "the gateway stops, and its time to finish is over"
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # what would end a header's line
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Inference:
    """Serves the paths of schemas.PATHS."""

    def __init__(
        self,
        gateway: Gateway,
        authentication: Authentication,
        kept: ResponsesKept,
        stopping: Stopping,
        crowd: Crowd,
        *,
        longest_s: float,
    ) -> None:
        self._stopping = stopping
        self._crowd = crowd
        self._gateway = gateway
        self._kept = kept
        self._authentication = authentication
        self._longest_s = longest_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one POST."""
        asked = HttpExchange(scope, send)
        try:
            principal = await self._authentication.principal(secret_of(asked.headers))
            asked.principal = principal
            body = await whole_body(receive)
            if asked.path == RESPONSES:
                asked.turn = await self._kept.turn(principal, body)
                body = asked.turn.body
            asked.call = call = self._call(asked, body, scope["headers"])
            await self._answer(principal, call, asked, Presence(receive, longest_s=self._longest_s))
        except PointsmanError as error:
            await self._fail(asked, error)
        except Gone:
            asked.reason = "client_gone"
        except Exception:  # a bug: the caller still gets an error in its API's shape
            LOG.exception("POST %s failed", asked.path)
            await self._fail(asked, PointsmanError("the gateway failed on this request; its log says why"))
        finally:
            self._gateway.metrics.served(asked.record())

    async def _fail(self, asked: HttpExchange, error: PointsmanError) -> None:
        asked.reason = error.code or error.type
        tenant = asked.principal.tenant if asked.principal is not None else ""
        self._gateway.metrics.turned_away(error.status, asked.reason, tenant)
        await asked.fail(error)

    async def _answer(self, principal: Principal, call: Call, asked: HttpExchange, presence: Presence) -> None:
        answer: RelayedAnswer | None = None
        try:
            if self._crowd.is_closed:
                await self._crowd.turn()
            asked.given = answer = await self._gateway.answer(principal, call)
            if isinstance(answer.reply, Whole):
                await self._plain(answer, answer.reply.body, asked, presence)
            else:
                await self._stream(answer, asked, presence)
        except asyncio.CancelledError:
            if presence.ended is None and self._stopping.began:
                raise NoCandidate(_STOPS, code="stopping", retry_after_s=1.0) from None
            if presence.ended is None:
                raise
            if presence.ended == "overdue":
                raise _overdue(self._longest_s) from None
            asked.reason = "client_gone"
        finally:
            presence.release()  # what is left is to settle, which nobody may cut short
            if answer is not None:
                with contextlib.suppress(StoreUnavailable):  # the client was told above, or has gone
                    await answer.close()

    def _call(self, asked: HttpExchange, body: bytes, every: Headers) -> Call:
        headers = asked.headers
        if asked.deployment is not None:
            body = with_field(body, "model", asked.deployment)
        passed = {name: headers[key].decode("latin-1") for key, name in _PASSED_ON.items() if key in headers}
        passed["x-request-id"] = asked.request_id.decode("latin-1")
        call = parse(
            asked.path,
            body,
            passed,
            preference=preference_of(headers.get(b"x-pointsman-preference")),
            aliases=self._gateway.decider.options.aliases,
            meaning=self._gateway.decider.meaning,
        )
        owner = asked.principal.metadata if asked.principal is not None else {}
        if TAGS in headers or "tags" in owner or not FIELDS.isdisjoint(call.fields):
            tags = tags_of(call.fields, headers.get(TAGS), owner)
            call.requirements = msgspec.structs.replace(call.requirements, tags=tags)
            call.fields = untagged(call.fields)
        call.session = passed.get("x-session-id") or call.session
        call.request_id = passed["x-request-id"]
        if b"cache-control" in headers:
            said = b",".join([value for name, value in every if name == b"cache-control"]).lower()
            call.keeps_stored = b"no-store" not in said
            call.takes_stored = call.keeps_stored and b"no-cache" not in said
        return call

    async def _plain(self, answer: RelayedAnswer, body: bytes, asked: HttpExchange, presence: Presence) -> None:
        await answer.settle()
        headers = _decision_headers(answer, asked.request_id)
        headers += [
            (b"content-type", b"application/json"),
            (b"x-pointsman-cost-usd", show_usd(answer.total).encode()),
            asked.overhead(answer.attempt.timings),
        ]
        if asked.turn is not None:
            body = asked.turn.went_on(body)
            await self._kept.keep(answer.attempt.principal, asked.turn, body)
        presence.release()
        asked.reason = "ok"
        await asked.answer(200, headers, body)
        if self._gateway.looks(answer.attempt):
            await self._gateway.observer.observe(answer.attempt, body, streamed=False)

    async def _turned(self, answer: RelayedAnswer, turn: Turn, chunk: bytes) -> bytes:
        """A part of a stream of Responses; its last one is kept before the client has it, and can go on."""
        chunk = turn.last = turn.went_on(chunk)
        await self._kept.keep_last(answer.attempt.principal, turn, chunk)
        return chunk

    async def _stream(self, answer: RelayedAnswer, asked: HttpExchange, presence: Presence) -> None:
        headers = [*_decision_headers(answer, asked.request_id), *_SSE, asked.overhead(answer.attempt.timings)]
        broken: str | None = None
        seen = SeenStream() if self._gateway.looks(answer.attempt) else None
        try:
            await asked.begin(200, headers)
            async for chunk in answer:
                if seen is not None:
                    seen.add(chunk)
                await asked.write(chunk if asked.turn is None else await self._turned(answer, asked.turn, chunk))
            await answer.settle()
            broken = answer.report.failure
        except PointsmanError as error:  # the headers are out: only the stream itself can tell
            broken = error.message
        except asyncio.CancelledError:
            if presence.ended == "gone":
                raise
            broken = _STOPS if presence.ended is None else _overdue(self._longest_s).message
            asked.reason = "stream_broken"
            presence.release()
            with contextlib.suppress(TimeoutError):  # whoever does not take it is cut off
                async with asyncio.timeout(LAST_WORD_S):
                    await asked.end(_broken_off(broken, asked))
            return
        presence.release()
        asked.reason = "ok" if broken is None else "stream_broken"
        await asked.end(b"" if broken is None else _broken_off(broken, asked))
        if seen is not None and broken is None:
            await self._gateway.observer.observe(answer.attempt, seen.data(), streamed=True)


class HttpExchange:
    """A request whose head is there, and its answer."""

    __slots__ = (
        "_begun_at",
        "_connection",
        "_overhead_s",
        "_send",
        "_status",
        "call",
        "deployment",
        "given",
        "headers",
        "path",
        "principal",
        "reason",
        "request_id",
        "turn",
    )

    def __init__(self, scope: Scope, send: Send) -> None:
        connection: Patient | None = scope.get("state", {}).get(CONNECTION)
        self._begun_at = time.perf_counter() if connection is None else connection.begun_at
        self._connection = connection
        self.principal: Principal | None = None  # once the key said whose it is
        self.call: Call | None = None  # once it is read
        self.given: RelayedAnswer | None = None  # once an engine answers
        self.reason = "cut_off"  # why it ends as it does
        self._status = 0  # once the head of its answer is sent
        self._overhead_s: float | None = None
        self.path: str = path_of(scope)
        self.turn: Turn | None = None
        self.deployment: str | None = scope.get(DEPLOYMENT)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = self.headers.get(b"x-request-id") or b"req-%024x" % _IDS.getrandbits(96)
        self._send = send

    def overhead(self, timings: Timings) -> tuple[bytes, bytes]:
        """Milliseconds from the head at its socket to the answer, without what the client and the engine took."""
        theirs_s = timings.spent["first_byte"] + (self._connection.waited_s if self._connection is not None else 0.0)
        own_s = time.perf_counter() - self._begun_at - theirs_s
        self._overhead_s = own_s
        return b"x-pointsman-overhead-ms", b"%.3f" % (own_s * 1000)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer; content-length is added."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.begin(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer. Raises: ValueError for a header that would end its line."""
        if _UNSAFE.search(b"".join([value for _, value in headers])) is not None:
            raise ValueError("a header's value holds a control character")
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """A piece of a stream; waits where the client is behind."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, last: bytes) -> None:
        """The last piece of a stream."""
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, error: PointsmanError) -> None:
        """Tell an error, where nothing was sent yet."""
        if not self._status:
            headers = [*error_headers(error), *id_headers(self.request_id, self.path)]
            await self.answer(error.status, headers, error_body(error, self.path))

    def record(self) -> ServedRequest:
        """What became of it, now that it is over."""
        call, attempt = self.call, self.given.attempt if self.given is not None else None
        return ServedRequest(
            at=time.time(),
            method="POST",
            seconds=time.perf_counter() - self._begun_at,
            path=self.path,
            request_id=self.request_id.decode("latin-1"),
            status=self._status or GONE,
            reason=self.reason,
            principal=self.principal,
            overhead_s=self._overhead_s,
            asked_for=call.requirements.pinned or call.alias if call is not None else None,
            stream=call is not None and call.stream,
            decision=attempt.decision if attempt is not None else None,
            spend=attempt.spend if attempt is not None else None,
            timings=attempt.timings.spent if attempt is not None else {},
        )


def id_headers(request_id: bytes, path: str) -> Headers:
    """The request's id, under Anthropic's own name too where its protocol is spoken."""
    own = [(b"request-id", request_id)] if path == "/v1/messages" else []
    return [(b"x-request-id", request_id), *own]


def _broken_off(why: str, asked: HttpExchange) -> bytes:
    return error_event(f"the answer broke off: {why}", asked.path, asked.turn.last if asked.turn is not None else b"")


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _overdue(longest_s: float) -> UpstreamFailed:
    return UpstreamFailed(f"the answer took longer than {longest_s:g} s", code="too_slow", status=504)


def preference_of(header: bytes | None) -> float | None:
    """The number in x-pointsman-preference. Raises: InvalidRequest where it is none."""
    if header is None:
        return None
    try:
        return float(header)
    except ValueError:
        text = header.decode("latin-1")[:40]
        message = f"x-pointsman-preference is {text!r}, expected a number from 0 (cheapest) to 1 (best)"
        raise InvalidRequest(message, param="x-pointsman-preference") from None


def _decision_headers(answer: RelayedAnswer, request_id: bytes) -> Headers:
    opened = answer.attempt
    headers = [
        *id_headers(request_id, opened.call.path),
        (b"x-pointsman-decision-id", opened.decision.decision_id.encode()),
        (b"x-pointsman-model", opened.model.name.encode()),
        (b"x-pointsman-policy", opened.decision.record.policy.encode()),
    ]
    if opened.stored:
        headers.append((b"x-pointsman-stored", opened.stored.encode()))
    if opened.room is not None:
        headers.append((b"x-pointsman-max-tokens", b"%d" % opened.room))
    if opened.hold.requests is not None:
        headers += _allowance(b"requests", opened.hold.requests)
    if opened.hold.tokens is not None:
        headers += _allowance(b"tokens", opened.hold.tokens)
    headers += [(b"x-pointsman-budget-warning", warning.encode()) for warning in opened.hold.warnings]
    return headers


def _allowance(kind: bytes, left: Allowance) -> Headers:
    return [
        (b"x-ratelimit-limit-" + kind, str(left.limit).encode()),
        (b"x-ratelimit-remaining-" + kind, str(left.remaining).encode()),
        (b"x-ratelimit-reset-" + kind, b"%.3fs" % (left.reset_ms / 1000)),
    ]


__all__ = ["PATHS", "Inference", "preference_of"]
