"""What happens to a gateway while `benchmarks.live` runs: restarts, kills, reloads; models join, degrade or leave.

Written as KIND@SHARE or KIND:MODEL@SHARE, SHARE of the stream before it. Fails with ValueError where that says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluation.traces import Sample, Trace
from policies.replay import Rows
from policies.simulation import QueryStream

ALONE = ("restart", "kill", "reload")  # of the gateway
OF_MODEL = ("join", "leave", "degrade")
DEGRADED = 0.3  # of a model's scores, once it has degraded


@dataclass(frozen=True, slots=True)
class Event:
    """Before request `at`."""

    at: int
    kind: str
    model: str = ""

    @classmethod
    def read(cls, written: str, *, models: Sequence[str], queries: int) -> Event:
        """Raises: ValueError naming what is known."""
        what, _, share = written.rpartition("@")
        kind, _, model = what.partition(":")
        if kind not in (*ALONE, *OF_MODEL) or (kind in OF_MODEL) != bool(model):
            raise ValueError(f"{written!r}: expected {', '.join(ALONE)} or {', '.join(f'{k}:MODEL' for k in OF_MODEL)}")
        if model and model not in models:
            raise ValueError(f"{written!r}: there are {', '.join(models)}")
        if not 0.0 <= float(share) < 1.0:
            raise ValueError(f"{written!r}: expected a share of the stream from 0 to 1 behind @")
        return cls(int(float(share) * queries), kind, model)


def present(events: Sequence[Event], models: Sequence[str], queries: int) -> NDArray[np.bool_]:
    """(N, M) whether each model exists at each query."""
    here = np.ones((queries, len(models)), np.bool_)
    for each in events:
        if each.kind == "join":
            here[: each.at, models.index(each.model)] = False
        elif each.kind == "leave":
            here[each.at :, models.index(each.model)] = False
    return here


def truth(events: Sequence[Event], trace: Trace, stream: Rows) -> NDArray[np.float64]:
    """(N, M) scores of the stream as they are when it happens."""
    scores = trace.scores[stream].copy()
    for each in events:
        if each.kind == "degrade":
            scores[each.at :, trace.models.index(each.model)] *= DEGRADED
    return scores


def changed(stream: QueryStream, events: Sequence[Event], scores: NDArray[np.float64]) -> QueryStream:
    """The stream of a replay in which the same happens."""
    models = [arm.name for arm in stream.arms]
    here = present(events, models, len(stream))
    return replace(stream, scores=scores, present=None if here.all() else here)


def of_models(sample: Sample, columns: NDArray[np.intp]) -> Sample:
    """The same queries as if these were all models that there are."""
    arms = tuple(sample.stream.arms[column] for column in columns)
    stream, history = sample.stream, sample.history
    here = None if stream.present is None else stream.present[:, columns]
    asked = replace(stream, arms=arms, scores=stream.scores[:, columns], costs=stream.costs[:, columns], present=here)
    past = {"arms": arms, "scores": history.scores[:, columns], "costs": history.costs[:, columns]}
    return replace(sample, stream=asked, history=msgspec.structs.replace(history, **past))


def trace_of(trace: Trace, columns: NDArray[np.intp]) -> Trace:
    """The trace with these models only."""
    models = tuple(trace.models[column] for column in columns)
    return replace(trace, models=models, scores=trace.scores[:, columns], costs=trace.costs[:, columns])
