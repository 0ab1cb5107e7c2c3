"""Responses that clients go on from: kept by the gateway, so that the next turn can go to any model.

A follow-up by `previous_response_id` becomes a request that holds the whole conversation. How it fails: an id that the
tenant does not have is a 400, as with OpenAI; an answer that cannot be kept is delivered all the same and logged.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request

from backends.whole import decoded
from router.catalogue.ciphers import cipher_of
from router.errors import InvalidRequest, NotFound, StoreUnavailable
from router.http.auth import Authentication
from router.http.kept_items import Order, page
from router.http.schemas import with_field
from router.ports import Conversations
from router.settings.sections import Responses
from router.types import Principal

LOG = logging.getLogger("pointsman.conversations")
PATH = "/v1/responses"
LARGEST_BYTES = 4 * 2**20  # of one conversation; a longer one is not kept
_LAST = (b'"type":"response.completed"', b'"type":"response.incomplete"', b'"type": "response.completed"')
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Kept(msgspec.Struct):
    items: list[Any]  # of the whole conversation, the answer's own among them
    response: Any


class Turn:
    """One request of a conversation: what it went on from, and what its answer is kept with."""

    __slots__ = ("body", "items", "last", "previous")

    def __init__(self, body: bytes, items: list[Any] | None, previous: str | None) -> None:
        self.body = body  # to be sent on
        self.items = items  # of the input, all of it; None: the answer is not kept
        self.previous = previous
        self.last = b""  # part of a stream

    def went_on(self, chunk: bytes) -> bytes:
        """The answer, or a part of a stream, with what it went on from."""
        if self.previous is None:
            return chunk
        return chunk.replace(b'"previous_response_id":null', b'"previous_response_id":"%b"' % self.previous.encode())


class ResponsesKept:
    """Keeps answers and goes on from them."""

    def __init__(self, store: Conversations, settings: Responses) -> None:
        self._store = store
        self._keeps = settings.keep
        self._cipher = cipher_of(settings)

    async def turn(self, principal: Principal, body: bytes) -> Turn:
        """A request as it is sent on. Raises: InvalidRequest, StoreUnavailable."""
        if not self._keeps:
            return Turn(with_field(body, "store", False), None, None)
        try:
            fields = _FIELDS.decode(body)
            given = msgspec.json.decode(fields.get("input", msgspec.Raw(b'""')))
            previous = msgspec.json.decode(fields.pop("previous_response_id", msgspec.Raw(b"null")))
        except (ValueError, RecursionError):
            return Turn(body, None, None)  # parsing says what is wrong with it
        items = given if isinstance(given, list) else [{"role": "user", "content": given}]
        keeps = bytes(fields.get("store", b"")) != b"false"
        if previous is None:
            return Turn(body, items if keeps else None, None)
        items = [*(await self._load(principal, str(previous))).items, *items]
        fields["input"] = msgspec.Raw(msgspec.json.encode(items))
        return Turn(msgspec.json.encode(fields), items if keeps else None, str(previous))

    async def keep(self, principal: Principal, turn: Turn, answer: bytes) -> None:
        """Keep a whole answer, or the last event of a stream. Raises: nothing."""
        if turn.items is None:
            return
        try:
            response = decoded(turn.went_on(answer))
            kept = _Kept([*turn.items, *response["output"]], response)
            body = self._cipher.encrypt(msgspec.json.encode(kept))
            if len(body) <= LARGEST_BYTES:
                await self._store.keep(principal.tenant, response["id"], body)
        except (ValueError, KeyError, TypeError, RecursionError, StoreUnavailable) as error:
            LOG.warning("an answer is not kept, no client can go on from it: %s", error)

    async def keep_last(self, principal: Principal, turn: Turn, chunk: bytes) -> None:
        """Keep the answer where this part of a stream holds the whole of it. Raises: nothing."""
        if turn.items is None or not any(sign in chunk for sign in _LAST):
            return
        for line in chunk.split(b"\n"):
            if line.startswith(b"data:") and any(sign in line for sign in _LAST):
                try:
                    event = decoded(line[5:])
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict):
                    await self.keep(principal, turn, msgspec.json.encode(event.get("response")))

    async def response(self, principal: Principal, name: str) -> Any:
        """A kept answer. Raises: NotFound, StoreUnavailable."""
        return (await self._found(principal, name)).response

    async def items(self, principal: Principal, name: str) -> list[Any]:
        """The input that led to a kept answer. Raises: NotFound, StoreUnavailable."""
        kept = await self._found(principal, name)
        return kept.items[: len(kept.items) - len(kept.response["output"])]

    async def forget(self, principal: Principal, name: str) -> None:
        """Raises: NotFound, StoreUnavailable."""
        if not await self._store.forget(principal.tenant, name):
            raise _unknown(name)

    async def _load(self, principal: Principal, name: str) -> _Kept:
        try:
            return await self._found(principal, name)
        except NotFound:
            raise InvalidRequest(
                f"Previous response with id {name!r} not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None

    async def _found(self, principal: Principal, name: str) -> _Kept:
        body = await self._store.find(principal.tenant, name)
        if body is None:
            raise _unknown(name)
        try:
            return msgspec.json.decode(self._cipher.decrypt(body), type=_Kept)
        except Exception as error:  # another key, or damage: as good as gone
            LOG.warning("a kept answer cannot be read: %s", type(error).__name__)
            raise _unknown(name) from None


def _unknown(name: str) -> NotFound:
    return NotFound(f"Response with id {name!r} not found.", param="response_id", code="response_not_found")


def routes(kept: ResponsesKept, authentication: Authentication) -> APIRouter:
    """Kept answers, and what led to them, for the tenant whose they are."""
    router = APIRouter()

    @router.get(PATH + "/{name}")
    async def get(name: str, request: Request, stream: bool = False) -> Any:
        """The answer as it was given, whole."""
        if stream:
            raise InvalidRequest("a kept response is given whole, not as a stream", param="stream")
        return await kept.response(await authentication.of(request.scope["headers"]), name)

    @router.delete(PATH + "/{name}")
    async def delete(name: str, request: Request) -> dict[str, object]:
        """Forget it."""
        await kept.forget(await authentication.of(request.scope["headers"]), name)
        return {"id": name, "object": "response", "deleted": True}

    @router.get(PATH + "/{name}/input_items")
    async def items(
        name: str,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Order = "desc",
        after: str | None = None,
    ) -> dict[str, object]:
        """What led to it, the latest first."""
        found = await kept.items(await authentication.of(request.scope["headers"]), name)
        return page(found, of=name.replace("resp_", "msg_"), limit=limit, order=order, after=after)

    return router
