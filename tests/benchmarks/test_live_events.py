"""What happens while the live proof runs is written in words, and replay sees the same happen."""

import numpy as np
import pytest

from benchmarks.live_events import DEGRADED, Event, changed, of_models, present, truth
from evaluation.traces import Sample, Trace
from policies.simulation import QueryStream
from policies.types import History

MODELS = ("small", "large")


def trace(rows: int = 10) -> Trace:
    """Both models earn 1 and cost 1."""
    ones = np.ones((rows, 2))
    return Trace("made", tuple(f"prompt {row}" for row in range(rows)), np.full(rows, ""), MODELS, ones, ones)


def stream(rows: int = 10) -> QueryStream:
    """Of all its rows."""
    each, lengths = trace(rows), np.ones(rows, np.int64)
    return QueryStream(each.arms, np.zeros((rows, 4), np.float32), each.scores, each.costs, lengths, lengths)


def test_an_event_names_its_kind_its_model_and_its_place() -> None:
    assert Event.read("restart@0.5", models=MODELS, queries=10) == Event(5, "restart")
    assert Event.read("join:large@0.3", models=MODELS, queries=10) == Event(3, "join", "large")


def test_a_model_may_have_an_at_sign_in_its_name() -> None:
    assert Event.read("leave:q@3bit@0.5", models=("q@3bit",), queries=10) == Event(5, "leave", "q@3bit")


@pytest.mark.parametrize(
    "written", ["restart", "restart:large@0.5", "join@0.5", "join:other@0.5", "leave:large@1.0", "burn@0.1", "kill@x"]
)
def test_what_says_nothing_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Event.read(written, models=MODELS, queries=10)


def test_a_model_is_there_from_its_coming_to_its_going() -> None:
    events = (Event(3, "join", "large"), Event(8, "leave", "large"))
    assert present(events, MODELS, 10)[:, 1].nonzero()[0].tolist() == [3, 4, 5, 6, 7]
    assert present(events, MODELS, 10)[:, 0].all()


def test_a_degraded_model_earns_less_from_then_on() -> None:
    scores = truth((Event(4, "degrade", "small"),), trace(), np.arange(10))
    assert scores[:, 0].tolist() == [1.0] * 4 + [DEGRADED] * 6
    assert (scores[:, 1] == 1.0).all()


def test_replay_sees_what_happens() -> None:
    events = (Event(2, "degrade", "small"), Event(5, "join", "large"))
    seen = changed(stream(), events, truth(events, trace(), np.arange(10)))
    assert seen.columns(4).tolist() == [0]
    assert seen.columns(5).tolist() == [0, 1]
    assert seen.scores[2, 0] == DEGRADED
    assert changed(stream(), (Event(1, "restart"),), stream().scores).present is None


def test_without_the_model_that_joins_the_others_come_and_go_as_before() -> None:
    whole = stream()
    nothing = np.zeros(0, np.int64)
    past = History(np.zeros((0, 4), np.float32), whole.arms, np.zeros((0, 2)), np.zeros((0, 2)), nothing, nothing)
    events = (Event(5, "join", "large"), Event(8, "leave", "small"))
    asked = changed(whole, events, whole.scores)
    fewer = of_models(Sample(asked, past, np.arange(10)), np.array([0])).stream
    assert (len(fewer.arms), fewer.columns(4).tolist(), fewer.columns(9).tolist()) == (1, [0], [])
