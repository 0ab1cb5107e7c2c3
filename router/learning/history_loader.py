"""Takes a labelled history from the archive into the views, or out of them, when the log says so.

Fails with StoreUnavailable; a row that cannot be read is passed over and said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np

from policies.records import to_half
from policies.types import Float32
from router.learning import histories
from router.learning.histories import LabelledRow
from router.learning.spaces import Spaces
from router.learning.views import Views
from router.ports import Archive, Archived
from router.types import Notice

LOG = logging.getLogger("pointsman.learning")
AT_ONCE = 64  # rows taken in between two turns of the loop
Found = tuple[bytes, LabelledRow]


class HistoryLoader:
    """Reads what the operator taught. `spaces` is None where no features are kept."""

    def __init__(self, archive: Archive, spaces: Spaces | None) -> None:
        self._archive, self._spaces = archive, spaces

    async def take(self, notice: Notice, views: Views, *, still: Callable[[], Awaitable[None]]) -> None:
        """Take in or out what a notice names; `still` waits while somebody looks at the views."""
        if notice.kind == "forgotten":
            without = await asyncio.to_thread(views.without, histories.owner_of(notice.name))
            await still()
            views.forget(notice.name, without)
        else:
            await self._add(notice.name, views, still)

    async def _add(self, name: str, views: Views, still: Callable[[], Awaitable[None]]) -> None:
        owner = histories.owner_of(name)
        known = {text_id for whose, text_id in views.table.text_ids if whose == owner}
        rows = [found async for each in self._archive.each(histories.ROOM, name) if (found := _readable(each))]
        rows = sorted([each for each in rows if each[0] not in known], key=lambda each: each[1].line)
        vectors = await asyncio.to_thread(self._vectors, rows, views)
        for start in range(0, len(rows), AT_ONCE):
            await still()
            for (text_id, row), vector in zip(rows[start : start + AT_ONCE], vectors[start:], strict=False):
                views.label(owner, text_id, row, vector)
            await asyncio.sleep(0)
        views.histories[name] = views.learned

    def _vectors(self, rows: list[Found], views: Views) -> Float32:
        """(n, d) in the space of the views; zero where a row has no counts and is of another."""
        out = np.zeros((len(rows), views.index.dim), np.float32)
        here = [row.space == views.space and len(row.embedding) == 2 * views.index.dim for _, row in rows]
        counted = [at for at, (_, row) in enumerate(rows) if row.counts and not here[at]]
        for at in np.flatnonzero(here):
            out[at] = np.frombuffer(rows[at][1].embedding, np.float16)
        if counted and self._spaces is not None:
            out[counted] = to_half(self._spaces.embedder.embed_counts([rows[at][1].counts for at in counted]))
        return out


def _readable(each: Archived) -> Found | None:
    try:
        return bytes.fromhex(each.name), histories.decode(each.body)
    except (msgspec.MsgspecError, ValueError) as error:
        LOG.error("row %s of the history %s cannot be read and is passed over: %s", each.name, each.owner, error)
        return None
