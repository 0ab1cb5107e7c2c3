"""Clients of a world: each asks once, over ASGI as a server would, and may hang up in the middle."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec

PATH = "/v1/chat/completions"


@dataclass(slots=True)
class ClientRequest:
    """One request, what its client saw of the answer, and when."""

    nonce: str
    tenant: str
    model: str
    stream: bool
    max_tokens: int
    at_s: float
    hangs_up_s: float | None  # after so long
    hangs_up_bytes: int | None  # after so many bytes of the answer
    judges: tuple[float, ...]  # scores it sends as feedback on a whole answer
    gateway: str = ""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    complete: bool = False  # the server ended the answer
    ended: str = "waiting"  # or "answered", "left", "reset"
    ended_s: float = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """Its body."""
        messages = [{"role": "user", "content": f"Say {self.nonce}, please."}]
        asked: dict[str, Any] = {"model": self.model, "messages": messages, "user": self.nonce, "stream": self.stream}
        return asked | {"max_tokens": self.max_tokens}

    @property
    def is_whole(self) -> bool:
        """Whether the client has all of an answer."""
        done = not self.stream or self.body.endswith(b"data: [DONE]\n\n")
        return self.status == 200 and self.complete and done

    @property
    def said(self) -> str:
        """The text of the answer as far as it came."""
        if self.status != 200:
            return ""
        if not self.stream:
            return str(msgspec.json.decode(bytes(self.body))["choices"][0]["message"]["content"]) if self.body else ""
        return _text_of(bytes(self.body))

    @property
    def seen(self) -> str:
        """The same of a stream that may have been cut within an event; of half a plain answer nothing."""
        if not self.stream and not self.complete:
            return ""
        whole = bytes(self.body).rpartition(b"\n\n")[0] + b"\n\n"
        return _text_of(whole) if self.stream else self.said

    @property
    def decision_id(self) -> str:
        """What feedback names."""
        return self.headers.get(b"x-pointsman-decision-id", b"").decode()

    @property
    def error(self) -> dict[str, Any]:
        """What a refusal says."""
        found: dict[str, Any] = msgspec.json.decode(bytes(self.body))["error"]
        return found


def _text_of(events: bytes) -> str:
    """Of a stream."""
    found = [msgspec.json.decode(each[6:]) for each in events.split(b"\n\n") if each[:7] == b"data: {"]
    choices = [choice for event in found for choice in event.get("choices", ())]
    return "".join([choice["delta"].get("content") or "" for choice in choices])


def request_for(
    chance: random.Random, number: int, *, tenants: list[str], models: list[str], within_s: float
) -> ClientRequest:
    """A request by the seed."""
    return ClientRequest(
        nonce=f"n{number:03d}x",
        tenant=chance.choice(tenants),
        model=chance.choice(models),
        stream=chance.random() < 0.6,
        max_tokens=chance.choice((10, 20, 60, 200, 1000)),
        at_s=chance.random() * within_s,
        hangs_up_s=chance.random() * 10 if chance.random() < 0.2 else None,
        hangs_up_bytes=chance.randrange(3000) if chance.random() < 0.1 else None,
        judges=chance.choice(((), (1.0,), (0.0,), (1.0, 1.0), (1.0, 0.0))),
    )


class ClientConnection:
    """One request on its way through one gateway: ASGI's two halves, and what cuts them."""

    def __init__(self, request: ClientRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.over: asyncio.Future[str] = loop.create_future()  # how it ended for the client
        self._loop = loop
        self._gone = asyncio.Event()
        self._body: bytes | None = msgspec.json.encode(request.fields)

    @property
    def scope(self) -> dict[str, Any]:
        """As ASGI has it; the key says whose request it is."""
        secret = f"{self.request.tenant}/{self.request.nonce}".encode()
        return {"type": "http", "method": "POST", "path": PATH, "headers": [(b"authorization", b"Bearer " + secret)]}

    async def receive(self) -> dict[str, Any]:
        """The body, then nothing until the client has gone."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """What the gateway sends; a client that has gone does not get it."""
        request = self.request
        if self.over.done():
            return
        if message["type"] == "http.response.start":
            request.status, request.headers = message["status"], dict(message["headers"])
            return
        body, most = message["body"], request.hangs_up_bytes
        if most is not None and len(request.body) + len(body) > most:
            request.body += body[: most - len(request.body)]
            self.leave()
            return
        request.body += body
        if not message.get("more_body"):
            request.complete = True
            self.end("answered")

    def leave(self) -> None:
        """The client hangs up."""
        self.end("left")
        self._gone.set()

    def end(self, how: str) -> None:
        """However it ends first."""
        if not self.over.done():
            self.request.ended, self.request.ended_s = how, self._loop.time()
            self.over.set_result(how)
