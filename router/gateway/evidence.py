"""The past queries that are shown with a decision: nobody sees another tenant's."""

from __future__ import annotations

import asyncio

import numpy as np

from policies.types import LoggedContext
from router.gateway.types import Neighbour
from router.learning.histories import name_of
from router.learning.views import Views


async def nearest(views: Views, context: LoggedContext, tenant: str, *, limit: int) -> list[Neighbour]:
    """The nearest of the tenant's own past queries and of what operators taught."""
    table = views.table
    own, similarity = await asyncio.to_thread(table.nearest_own, tenant, context.embedding, limit)
    hits = views.index.search(context.embedding[None, :], context.neighbours_asked)
    taught = np.array([name_of(table.tenants[owner]) is not None for owner in table.owners(hits.ids[0])], np.bool_)
    rows = np.concatenate([own, hits.ids[0][taught]])
    similarity = np.concatenate([similarity, hits.similarity[0][taught]])
    chosen = np.argsort(-similarity, kind="stable")[:limit]
    names, found = context.names, table.neighbours(rows[chosen], similarity[chosen], context.arms)
    return [
        Neighbour(
            text=table.texts[row],
            similarity=float(similarity[at]),
            scores={n: float(s) for n, s in zip(names, scores, strict=True) if not np.isnan(s)},
            history=name_of(table.tenants[int(table.owners(np.array([row]))[0])]),
        )
        for at, row, scores in zip(chosen, rows[chosen], found.scores, strict=True)
    ]
