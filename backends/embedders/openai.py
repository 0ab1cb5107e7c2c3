"""Vectors from any server with /v1/embeddings; requests that come within two milliseconds travel together.

Fails with BackendError: all who wait for one batch get its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.embedders.unit import unit_rows
from backends.errors import BackendError, Failed
from backends.openai import OpenAIBackend
from backends.types import Limits, Request
from backends.whole import read_all

LIMITS = Limits(connect_s=2.0, first_byte_s=10.0, idle_s=10.0)  # a decision waits for this


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Rows(msgspec.Struct):
    data: list[_Row]


class OpenAIEmbedder:
    """Texts to the vectors of `model` at a server, at most `batch` of them in one request."""

    def __init__(
        self,
        backend: OpenAIBackend,
        *,
        model: str,
        dim: int,
        window_s: float = 0.002,
        batch: int = 64,
        is_local: bool = False,
    ) -> None:
        self._backend = backend
        self._model = model
        self._dim = dim
        self._is_local = is_local
        self._window_s = window_s
        self._batch = batch
        self._waiting: list[tuple[str, asyncio.Future[NDArray[np.float32]]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def is_local(self) -> bool:
        """Whether the operator says that the server is one of theirs."""
        return self._is_local

    @property
    def dim(self) -> int:
        """d, as the settings say; a server that sends another is an error."""
        return self._dim

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(m, d) float32, unit rows. Raises: BackendError."""
        loop = asyncio.get_running_loop()
        rows: list[asyncio.Future[NDArray[np.float32]]] = [loop.create_future() for _ in texts]
        self._waiting += zip(texts, rows, strict=True)
        if len(self._waiting) >= self._batch:
            self._leave()
        elif self._alarm is None and rows:
            self._alarm = loop.call_later(self._window_s, self._leave)
        got = await asyncio.gather(*rows)
        return np.stack(got) if got else np.empty((0, self._dim), np.float32)

    async def aclose(self) -> None:
        """Stop what is under way and release the connections."""
        if self._alarm is not None:
            self._alarm.cancel()
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._backend.aclose()

    def _leave(self) -> None:
        """Send all who wait."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), self._batch):
            task = asyncio.ensure_future(self._carry(waiting[start : start + self._batch]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _carry(self, party: list[tuple[str, asyncio.Future[NDArray[np.float32]]]]) -> None:
        try:
            rows = await self._ask([text for text, _ in party])
        except BackendError as problem:
            for _, future in party:
                if not future.done():
                    future.set_exception(problem)
        except BaseException:
            for _, future in party:
                future.cancel()
            raise
        else:
            for row, (_, future) in zip(rows, party, strict=True):
                if not future.done():
                    future.set_result(row)

    async def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        fields = {"input": msgspec.Raw(msgspec.json.encode(texts))}
        request = Request(path="/v1/embeddings", fields=fields, model=self._model, answers_as=self._model)
        body = await read_all(await self._backend.send(request))
        try:
            data = msgspec.json.decode(body, type=_Rows).data
        except msgspec.DecodeError as problem:
            raise Failed(f"answered no embeddings ({problem})", backend=self._backend.name) from problem
        data.sort(key=lambda row: row.index)
        if len(data) != len(texts) or any(len(row.embedding) != self._dim for row in data):
            got = f"{len(data)} rows of {len(data[0].embedding) if data else 0}"
            raise Failed(f"answered {got} for {len(texts)} of {self._dim}", backend=self._backend.name)
        return unit_rows([row.embedding for row in data])
