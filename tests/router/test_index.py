"""The neighbour index: FAISS agrees with brute force, grows online and survives a restart."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from policies.records import to_half
from router.learning.index import FaissIndex, Hits, Ids, Vectors

DIM = 32


class BruteForceIndex:
    """The reference: every search looks at every vector."""

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((0, dim), np.float32)
        self._ids = np.empty(0, np.int64)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        self._vectors = np.vstack([self._vectors, vectors])
        self._ids = np.concatenate([self._ids, ids])

    def search(self, queries: Vectors, k: int) -> Hits:
        similarity = queries @ self._vectors.T  # (m, N)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(self))]
        return Hits([self._ids[row] for row in order], [s[row] for s, row in zip(similarity, order, strict=True)])

    def __len__(self) -> int:
        return len(self._ids)


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Rows as the gateway embeds: of unit length, to half precision."""
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    return to_half(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture(params=["brute force", "flat", "graph"])
def index(request: pytest.FixtureRequest) -> BruteForceIndex | FaissIndex:
    if request.param == "brute force":
        return BruteForceIndex(DIM)
    return FaissIndex(DIM, graph_from=0 if request.param == "graph" else 10**9)


def test_an_empty_index_finds_nothing(index: BruteForceIndex | FaissIndex) -> None:
    hits = index.search(unit(np.random.default_rng(0), 2), 5)
    assert [len(ids) for ids in hits.ids] == [0, 0]


def test_a_row_is_never_padded_beyond_what_is_held(index: BruteForceIndex | FaissIndex) -> None:
    rng = np.random.default_rng(1)
    index.add(unit(rng, 3), np.array([7, 8, 9]))
    hits = index.search(unit(rng, 1), 10)
    assert sorted(hits.ids[0].tolist()) == [7, 8, 9]


def test_the_nearest_come_first_with_their_cosine(index: BruteForceIndex | FaissIndex) -> None:
    rng = np.random.default_rng(2)
    vectors = unit(rng, 400)
    index.add(vectors, np.arange(1000, 1400))
    if isinstance(index, FaissIndex):
        index.settle()
    hits = index.search(vectors[5:6], 8)
    assert hits.ids[0][0] == 1005
    assert hits.similarity[0][0] == pytest.approx(vectors[5] @ vectors[5], abs=1e-5)
    assert hits.similarity[0] == pytest.approx(vectors[hits.ids[0] - 1000] @ vectors[5], abs=1e-5)
    assert np.all(np.diff(hits.similarity[0]) <= 1e-6)


def test_faiss_flat_agrees_with_brute_force_exactly() -> None:
    rng = np.random.default_rng(3)
    vectors, queries = unit(rng, 500), unit(rng, 50)
    flat, brute = FaissIndex(DIM), BruteForceIndex(DIM)
    for each in (flat, brute):
        each.add(vectors, np.arange(500))
    found, truth = flat.search(queries, 10), brute.search(queries, 10)
    for a, b in zip(found.ids, truth.ids, strict=True):
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_graph_finds_at_least_95_percent_of_what_brute_force_finds(threads: int) -> None:
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng, 3000), unit(rng, 100)
    graph, brute = FaissIndex(DIM, graph_from=1000, build_threads=threads), BruteForceIndex(DIM)
    for start in range(0, 3000, 500):  # grows across the switch from flat to graph
        rows = np.arange(start, start + 500)
        graph.add(vectors[rows], rows)
        brute.add(vectors[rows], rows)
    graph.settle()
    assert graph.is_graph
    found, truth = graph.search(queries, 20), brute.search(queries, 20)
    shared = [len(np.intersect1d(a, b)) / 20 for a, b in zip(found.ids, truth.ids, strict=True)]
    assert np.mean(shared) >= 0.95


@pytest.mark.parametrize("graph_from", [0, 10**9])
def test_a_saved_index_answers_the_same_after_loading(tmp_path: Path, graph_from: int) -> None:
    rng = np.random.default_rng(5)
    vectors, queries = unit(rng, 300), unit(rng, 10)
    index = FaissIndex(DIM, graph_from=graph_from)
    index.add(vectors, np.arange(300) * 3)
    index.settle()
    index.save(tmp_path)
    again = FaissIndex(DIM, graph_from=graph_from)
    again.load(tmp_path, rows=len(index))
    before, after = index.search(queries, 7), again.search(queries, 7)
    assert [i.tolist() for i in before.ids] == [i.tolist() for i in after.ids]
    again.add(unit(rng, 1), np.array([5000]))
    assert len(again) == 301


def test_an_index_of_another_dimension_is_refused(tmp_path: Path) -> None:
    FaissIndex(DIM).save(tmp_path)
    with pytest.raises(ValueError, match="32 dimensions, the embedder 16"):
        FaissIndex(16).load(tmp_path, rows=10)


def test_a_query_asked_again_finds_what_was_added_since() -> None:
    rng = np.random.default_rng(5)
    vectors = unit(rng, 3_000)
    index, reference = FaissIndex(DIM, graph_from=10_000), BruteForceIndex(DIM)
    queries = unit(rng, 4)
    for start in range(0, 3_000, 700):  # more than are remembered singly, then fewer, then none
        for step in (slice(start, start + 600), slice(start + 600, start + 700), slice(0, 0)):
            ids = np.arange(3_000)[step]
            index.add(vectors[step], ids)
            reference.add(vectors[step], ids)
            for query in queries:
                found, expected = index.search(query[None, :], 20), reference.search(query[None, :], 20)
                assert np.array_equal(found.ids[0], expected.ids[0])
                assert np.allclose(found.similarity[0], expected.similarity[0], atol=1e-6)


def test_searches_and_additions_go_on_while_the_graph_is_built() -> None:
    rng = np.random.default_rng(6)
    vectors, brute = unit(rng, 6_000), BruteForceIndex(DIM)
    index = FaissIndex(DIM, graph_from=4_999)
    for start, count in [(0, 5_000), *((row, 1) for row in range(5_000, 6_000))]:
        rows = np.arange(start, start + count)
        index.add(vectors[rows], rows)
        brute.add(vectors[rows], rows)
        if start == 5_000:
            assert not index.is_graph  # it takes far longer than this
        newest = index.search(vectors[rows[-1:]], 1)
        if not index.is_graph:
            assert newest.ids[0].tolist() == [rows[-1]]
    index.settle()
    assert index.is_graph
    assert len(index) == 6_000
    found, truth = index.search(vectors, 1), brute.search(vectors, 1)
    lost = sum(a.tolist() != b.tolist() for a, b in zip(found.ids, truth.ids, strict=True))
    assert lost <= 60  # a graph may miss one in a hundred; one built while it grew misses no more


def test_searches_go_on_while_the_index_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    vectors, index = unit(rng, 100), FaissIndex(DIM)
    index.add(vectors, np.arange(100))
    os.mkfifo(tmp_path / "index.faiss")  # writing waits for somebody to read it
    writing = threading.Thread(target=index.save, args=(tmp_path,))
    writing.start()
    found = index.search(vectors[:1], 1).ids[0].tolist()
    still_writing = writing.is_alive()
    (tmp_path / "index.faiss").read_bytes()
    writing.join()
    assert found == [0]
    assert still_writing
