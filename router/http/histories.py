"""/admin/v1/histories: queries that every model answered, given to a running gateway by an operator.

Rows come in parts and are kept as they come; they are learned from when the history is finished. Bad rows are refused
with their line, and none of their part is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field

from router.errors import InvalidRequest, NotFound
from router.gateway.serving import Gateway
from router.gateway.types import Call, Float32, generic_tokens
from router.http.auth import Authentication, key_first
from router.http.schemas import parse
from router.learning import histories
from router.learning.follower import Learning
from router.learning.histories import LabelledRow
from router.stores.open import Stores
from router.terms import OwnerName, Section, Share
from router.types import Notice, now_ms

ABOUT = "about"  # room of what is said of each history
MOST_ROWS = 500
Usd = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class RowBody(Section):
    """One query and what each model earned and cost on it."""

    line: int = Field(ge=0, le=2**53, description="of the file, to be named in errors; the same one again is the same")
    prompt: str = Field(min_length=1)
    scores: dict[str, Share]
    costs: dict[str, Usd]


class RowsBody(Section):
    """Rows of a history."""

    rows: Annotated[tuple[RowBody, ...], Field(min_length=1, max_length=MOST_ROWS)]


def routes(gateway: Gateway, stores: Stores, authentication: Authentication, learning: Learning) -> APIRouter:
    """The router, for admin keys."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=key_first(authentication, admin=True))
    given = Given(gateway, stores, learning)

    @router.get("/histories")
    async def listed() -> dict[str, object]:
        """Labelled histories, and whether this gateway has learned from them."""
        return {"object": "list", "data": [each async for each in given.listed()]}

    @router.post("/histories/{name}/rows")
    async def rows(name: OwnerName, body: RowsBody) -> dict[str, object]:
        """Keep rows of a history. Those that are kept already change nothing."""
        stored = await given.keep(name, body.rows)
        return {"object": "history.rows", "name": name, "stored": stored, "known": len(body.rows) - stored}

    @router.post("/histories/{name}")
    async def finish(name: OwnerName, request: Request) -> dict[str, object]:
        """Learn from the rows that are kept."""
        return await given.finish(name, by=request.state.principal.key_id)

    @router.delete("/histories/{name}")
    async def forget(name: OwnerName, request: Request) -> dict[str, object]:
        """Forget a history and what was learned from it."""
        return await given.forget(name, by=request.state.principal.key_id)

    @router.delete("/tenants/{name}/features")
    async def forget_features(name: OwnerName, request: Request) -> dict[str, object]:
        """Forget what is kept of a tenant's texts for the embedder."""
        gone = 0 if learning.spaces is None else await learning.spaces.forget_tenant(name)
        await stores.audit.note(
            "tenant.features.forgotten", name, {"texts": gone, "by": request.state.principal.key_id}
        )
        return {"object": "tenant.features", "tenant": name, "forgotten": gone}

    return router


@dataclass(frozen=True, slots=True)
class Given:
    """What operators gave."""

    gateway: Gateway
    stores: Stores
    learning: Learning

    async def listed(self) -> AsyncIterator[Mapping[str, object]]:
        """Each history as JSON values. Raises: StoreUnavailable."""
        async for each in self.stores.archive.each(ABOUT):
            said = json.loads(each.body)
            yield {"object": "history", "name": each.owner, **said, "learned": self.learning.has_learned(each.owner)}

    async def keep(self, name: str, rows: tuple[RowBody, ...]) -> int:
        """How many of them are new. Raises: InvalidRequest, StoreUnavailable."""
        for place, row in enumerate(rows):
            self._check(place, row)
        calls = [parse("/v1/chat/completions", _as_request(row.prompt), {}) for row in rows]
        made = await self._made(rows, calls)
        archive = self.stores.archive
        known = {each.name: each.body async for each in archive.each(histories.ROOM, name, list(made))}
        for place, (key, fresh) in enumerate(made.items()):
            if key in known and not _same(there := histories.decode(known[key]), fresh):
                why = f"its prompt is in {name} already, in line {there.line}"
                raise _refused(place, fresh.line, f"{why}, with other labels" if there.line == fresh.line else why)
        return await archive.put(histories.ROOM, name, {key: histories.encode(row) for key, row in made.items()})

    def _check(self, place: int, row: RowBody) -> None:
        """Raises: InvalidRequest."""
        if not row.scores or row.scores.keys() != row.costs.keys():
            raise _refused(place, row.line, "every model needs a score and a cost")
        unknown = sorted(row.scores.keys() - self.gateway.decider.catalogue.names())
        if unknown:
            raise _refused(place, row.line, f"this gateway has no model {', '.join(unknown)}")

    async def _made(self, rows: tuple[RowBody, ...], calls: list[Call]) -> dict[str, LabelledRow]:
        """Rows as they are kept, by the id of their text. Raises: InvalidRequest where two have the same."""
        decider, spaces = self.gateway.decider, self.learning.spaces
        space, texts = self.learning.views.space, [call.text for call in calls]
        if spaces is None:
            vectors, counts = await decider.embedder.embed(texts), [b""] * len(texts)
        else:
            vectors, counts = await asyncio.to_thread(
                lambda: (spaces.embedder.embed_now(texts), [spaces.embedder.counts(text) for text in texts])
            )
        features = await asyncio.to_thread(_features, decider.features, texts)
        made: dict[str, LabelledRow] = {}
        for i, (row, call) in enumerate(zip(rows, calls, strict=True)):
            key = (_plain_id(call.text) if spaces is None else spaces.embedder.id_of(call.text)).hex()
            if key in made:
                raise _refused(i, row.line, f"its prompt is that of line {made[key].line}")
            made[key] = LabelledRow(
                row.line,
                row.scores,
                row.costs,
                generic_tokens(call),
                len(call.text),
                features[i],
                vectors[i].astype(np.float16).tobytes(),
                space,
                counts[i],
                call.text[: decider.options.keep_characters],
            )
        return made

    async def finish(self, name: str, *, by: str) -> dict[str, object]:
        """Say it in the log. Raises: NotFound, StoreUnavailable."""
        archive, models, count = self.stores.archive, set[str](), 0
        async for each in archive.each(histories.ROOM, name):
            models |= histories.decode(each.body).scores.keys()
            count += 1
        if not count:
            raise NotFound(f"there are no rows of a history {name!r}", param="name")
        about = {"rows": count, "models": sorted(models), "at_ms": now_ms(), "by": by}
        await archive.drop(ABOUT, name)
        await archive.put(ABOUT, name, {"": json.dumps(about).encode()})
        await self.stores.log.remember(Notice("history", name, count, now_ms()))
        await self.stores.audit.note("history.learned", name, about)
        return {"object": "history", "name": name, **about, "learned": False}

    async def forget(self, name: str, *, by: str) -> dict[str, object]:
        """Raises: NotFound, StoreUnavailable."""
        gone = await self.stores.archive.drop(histories.ROOM, name)
        said = await self.stores.archive.drop(ABOUT, name)
        if not gone + said:
            raise NotFound(f"there is no history {name!r}", param="name")
        await self.stores.log.remember(Notice("forgotten", name, gone, now_ms()))
        await self.stores.audit.note("history.forgotten", name, {"rows": gone, "by": by})
        return {"object": "history", "name": name, "forgotten": gone}


def _as_request(prompt: str) -> bytes:
    """What a client would send: a row is measured as its query will be."""
    return msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": prompt}]})


def _features(of: Callable[[str], Float32] | None, texts: list[str]) -> list[bytes]:
    return [b"" if of is None else of(text).astype(np.float32).tobytes() for text in texts]


def _plain_id(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _same(known: LabelledRow, given: LabelledRow) -> bool:
    return (known.line, known.scores, known.costs) == (given.line, given.scores, given.costs)


def _refused(place: int, line: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"line {line}: {why}", param=f"rows[{place}]")
