"""Engines that break and lie, and clients that leave, retry and remember what they were given."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from backends.scripted import Line
from backends.types import TokenParts
from benchmarks.child import Child
from benchmarks.scripted_server import ScriptedServer
from router.types import Balance, NanoUsd, Price

PRICES = {
    "small": Price(NanoUsd(10**8), NanoUsd(4 * 10**8), cached=NanoUsd(10**7), cache_write=NanoUsd(125 * 10**6)),
    "large": Price(NanoUsd(10**9), NanoUsd(4 * 10**9), cached=NanoUsd(10**8), cache_write=NanoUsd(125 * 10**7)),
}
MAX_TOKENS = 64
WORST = max(price.worst(500, MAX_TOKENS) for price in PRICES.values())
NESTED = b"[" * 3000 + b"]" * 3000
LIES: list[object] = [  # that engines tell of what they used
    {"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64 - 1, "total_tokens": 2**64 - 1},
    {"prompt_tokens": -100_000_000, "completion_tokens": -100_000_000, "total_tokens": -200_000_000},
    {"prompt_tokens": 1.5, "completion_tokens": 0.5, "total_tokens": 2.0},
    {"prompt_tokens": "9", "completion_tokens": "9", "total_tokens": "18"},
    {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"total_tokens": 7},
    {},
    NESTED,
]
KEPT = ((7, 0), (4, 0), (0, 7), (2, 5))  # tokens of a prompt that were in a cache, and that are written to one
PROMPT_WORDS = 7  # as a scripted engine counts every question
BELIEVED_FROM = 4  # a report is believed down to this part of what the gateway counts itself


@dataclass
class Account:
    """What one key's client saw."""

    key_id: str
    secret: str
    tenant: str
    delivered: int = 0  # nano-USD of answers that came whole
    uncertain: int = 0  # requests that may have been served in part


@dataclass(frozen=True, slots=True)
class Overspent:
    """A budget that was seen beyond its limit."""

    at_ms: int
    since_redis_s: float  # since the store was last killed or replaced
    balance: Balance


@dataclass
class CrowdTally:
    """What the run counts."""

    seen: Counter[str] = field(default_factory=Counter)
    overspent: list[Overspent] = field(default_factory=list)  # each time it was seen
    unknown: list[tuple[int, str, int]] = field(default_factory=list)  # when, budget's scope and what was charged
    kills: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, float] = field(default_factory=dict)  # a fault nobody has got over yet -> since
    forgotten: int = 0  # times that Redis lost its last second
    failovers: int = 0  # times that a replica that was behind was promoted
    detection_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def explains(self, seen: Overspent) -> bool:
        """Whether what nobody knows of a dead gateway's holds, and is charged at its worst case, makes it up."""
        balance, budget = seen.balance, seen.balance.budget
        oldest_ms = seen.at_ms - budget.period_s * 1000  # what is older has left the window
        worst = sum(
            charged
            for at_ms, scope, charged in self.unknown
            if scope == budget.scope and oldest_ms <= at_ms <= seen.at_ms
        )
        return balance.spent + balance.held <= budget.limit + worst

    def served(self) -> None:
        for what in list(self.waiting):
            self.detection_s[what] = max(self.detection_s[what], time.monotonic() - self.waiting.pop(what))


# engines


def script(_model: str, _body: Any) -> Line:
    """Answers of 1 to 60 words, a few slow, a few broken, a few with a lie about their usage."""
    draw = random.random()
    words = " ".join(["word"] * random.randint(1, 60))
    if draw < 0.02:
        return Line(words, trouble="500")
    if draw < 0.04:
        return Line(words, trouble="reset", trouble_after=3)
    if draw < 0.05:
        return Line(words, delay_s=8)
    if draw < 0.12:
        return Line(words, usage=random.choice(LIES))
    if draw < 0.4:
        return Line(words, usage=honest(len(words.split()), random.choice(KEPT)), delay_s=random.random() * 0.1)
    return Line(words, delay_s=random.random() * 0.1, piece_delay_s=random.random() * 0.01)


def honest(words: int, kept: tuple[int, int] = (0, 0)) -> dict[str, object]:
    """What an engine that does not lie says it used."""
    used: dict[str, object] = {
        "prompt_tokens": PROMPT_WORDS,
        "completion_tokens": words,
        "total_tokens": PROMPT_WORDS + words,
    }
    details = {"cached_tokens": kept[0], "cache_write_tokens": kept[1]}
    return {**used, "prompt_tokens_details": details} if any(kept) else used


async def engine(port: int) -> None:
    """An engine that runs until it is killed."""
    server = ScriptedServer(script, models=[{"id": name, "object": "model"} for name in PRICES])
    server.port = port
    await server.start()
    while True:
        await asyncio.sleep(1)
        server.heard.clear()


# clients


class Clients:
    """Requests of many keys over all gateways."""

    def __init__(self, gateways: list[Child], accounts: list[Account], tally: CrowdTally) -> None:
        self._gateways, self._tally = itertools.cycle(gateways), tally
        self.accounts = accounts
        self._numbers = itertools.count()

    async def ask(self, session: aiohttp.ClientSession, account: Account, *, tries: int = 4) -> str:
        """One request with retries; what became of the last try."""
        outcome = "unreachable"
        for attempt in range(tries):
            outcome = await self._try(session, account)
            self._tally.seen[outcome] += 1
            if outcome not in ("unreachable", "503", "502"):
                break
            await asyncio.sleep(0.1 * 2**attempt)
        return outcome

    async def _try(self, session: aiohttp.ClientSession, account: Account) -> str:
        stream, leaves = random.random() < 0.6, random.random() < 0.08
        body = {"model": "auto", "max_tokens": MAX_TOKENS, "stream": stream, **_usage(stream)}
        body["messages"] = [{"role": "user", "content": f"question {next(self._numbers)} of {account.key_id}"}]
        url = f"http://127.0.0.1:{next(self._gateways).port}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {account.secret}"}
        account.uncertain += 1  # until the answer says otherwise
        try:
            async with asyncio.timeout(0.05 if leaves else 5), session.post(url, json=body, headers=headers) as answer:
                if answer.status != 200:
                    return self._refused(account, answer.status, await answer.read())
                return self._delivered(account, await answer.read(), stream=stream)
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            return "unreachable"
        except (TimeoutError, aiohttp.ClientError, OSError):
            return "left" if leaves else "cut"

    def _refused(self, account: Account, status: int, body: bytes) -> str:
        if status == 429:
            account.uncertain -= 1
            self._tally.served()
            return "budget" if b"insufficient_quota" in body else "rate limit"
        return str(status)

    def _delivered(self, account: Account, body: bytes, *, stream: bool) -> str:
        whole, model, text, usage = _read(body, stream=stream)
        if not whole:
            return "cut"
        self._tally.served()
        words = len(text.split())
        for kept in ((0, 0), *KEPT):
            if usage == honest(words, kept):
                account.uncertain -= 1
                parts = TokenParts(cached=kept[0], cache_write=kept[1])
                account.delivered += PRICES[model].of(PROMPT_WORDS, words, parts)
                return "ok with a cache" if any(kept) else "ok"
        account.delivered += PRICES[model].of(1, words // BELIEVED_FROM)  # at least; at most its worst case
        return "lied to"


def _usage(stream: bool) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if stream else {}


def _read(body: bytes, *, stream: bool) -> tuple[bool, str, str, object]:
    """Whether an answer is whole, its model, its text and its usage, whatever that says."""
    body = body.replace(NESTED, b"null")  # no decoder follows that
    if not stream:
        answer = msgspec.json.decode(body, type=Plain)
        return True, answer.model, answer.choices[0].message.content or "", reported(answer.usage)
    if b"data: [DONE]" not in body or b'"error"' in body:
        return False, "", "", None
    model, text, usage = "", "", msgspec.Raw(b"null")
    for event in body.split(b"\n\n"):
        if event.startswith(b"data: {"):
            chunk = msgspec.json.decode(event[6:], type=Chunk)
            model, usage = chunk.model, chunk.usage if bytes(chunk.usage) != b"null" else usage
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return True, model, text, reported(usage)


def reported(usage: msgspec.Raw) -> object:
    """What is said of usage, less its cost."""
    found = msgspec.json.decode(usage)
    return {name: value for name, value in found.items() if name != "cost"} if isinstance(found, dict) else found


class CrowdAnswer(msgspec.Struct):
    """What an answer says, whole or in part."""

    content: str | None = None


class Choice(msgspec.Struct):
    """Of an answer or a chunk."""

    message: CrowdAnswer = msgspec.field(default_factory=CrowdAnswer)
    delta: CrowdAnswer = msgspec.field(default_factory=CrowdAnswer)


class Plain(msgspec.Struct):
    """An answer or a chunk of one; its usage may be anything."""

    model: str = ""
    choices: list[Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")


Chunk = Plain


if __name__ == "__main__":
    try:
        asyncio.run(engine(int(sys.argv[1])))
    finally:
        os._exit(0)
