"""Past queries by their embedding: FAISS, flat while small and a graph beyond.

Fails only where memory does. Vectors are unit rows, so the inner product is the cosine.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

faiss.omp_set_num_threads(1)  # two cores are shared with the event loop

BUILT_AT_ONCE = 1_000  # vectors that go into a graph under construction between two looks at what was added
NEIGHBOURS = 16  # of a vector in the graph, and twice as many in its lowest layer
BUILT_LOCKED = 4  # vectors that may go in while nobody can search
Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hits:
    """Nearest neighbours of m queries; row i has at most k entries, never padded."""

    ids: list[Ids]  # m arrays of (<= k,)
    similarity: list[Vectors]  # m arrays of (<= k,), cosine, descending


class Recall:
    """The hits of the latest `most` queries, brought up to date by the vectors added since each was searched.

    A query asked again costs a look-up; where up to `newest` vectors came in between, also one small product.
    """

    def __init__(self, dim: int, *, most: int = 2_048, newest: int = 512) -> None:
        self._most = most
        self._hits: dict[bytes, tuple[int, int, Ids, Vectors]] = {}  # query -> (added then, k, ids, similarity)
        self._vectors = np.zeros((newest, dim), np.float32)  # a ring of the vectors added last
        self._ids = np.zeros(newest, np.int64)
        self.added = 0  # vectors since the beginning

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """Vectors went into the index."""
        size = len(self._ids)
        places = np.arange(self.added, self.added + len(ids))[-size:] % size
        self._vectors[places], self._ids[places] = vectors[-size:], ids[-size:]
        self.added += len(ids)

    def find(self, query: Vectors, k: int) -> tuple[Ids, Vectors] | None:
        """Hits of a query (d,) as the index would give them now, or None where they are not known."""
        key = query.tobytes()
        known = self._hits.pop(key, None)
        if known is None or known[1] != k or self.added - known[0] > len(self._ids):
            return None
        then, _, ids, similarity = known
        if then < self.added:
            ids, similarity = self._merged(query, k, then, ids, similarity)
        self._hits[key] = (self.added, k, ids, similarity)
        return ids, similarity

    def keep(self, query: Vectors, k: int, then: int, ids: Ids, similarity: Vectors) -> None:
        """Remember what the index answered when `then` vectors had been added."""
        self._hits[query.tobytes()] = (then, k, ids, similarity)
        if len(self._hits) > self._most:
            del self._hits[next(iter(self._hits))]

    def _merged(self, query: Vectors, k: int, then: int, ids: Ids, similarity: Vectors) -> tuple[Ids, Vectors]:
        places = np.arange(then, self.added) % len(self._ids)
        vectors, fresh = self._vectors[places], np.empty(len(places), np.float32)
        pointers = [faiss.swig_ptr(each) for each in (fresh, np.ascontiguousarray(query), vectors)]
        faiss.fvec_inner_products_ny(*pointers, len(query), len(vectors))  # type: ignore[attr-defined]  # to the bit
        all_ids = np.concatenate([ids, self._ids[places]])
        all_similarity = np.concatenate([similarity, fresh])
        order = np.argsort(-all_similarity, kind="stable")[:k]
        return all_ids[order], all_similarity[order]


class FaissIndex:
    """IndexFlatIP up to `graph_from` vectors, a graph (HNSW) beyond, M = 16 and ef_construction = 200. The graph keeps
    vectors in half precision, as decisions and the log do: half of what a search has to read.

    The graph is built by a thread of its own while the flat index goes on answering and growing, and takes over when
    it holds all. Additions after the switch go into it at once. A lock keeps whoever adds and whoever searches apart,
    since FAISS itself allows concurrent searches only.
    """

    def __init__(self, dim: int, *, graph_from: int = 2_000, ef_search: int = 64, build_threads: int = 1) -> None:
        self.dim = dim
        self._build_threads = build_threads
        self._graph_from = graph_from
        self._ef_search = ef_search
        self._index: faiss.Index = faiss.IndexFlatIP(dim)
        self._ids = np.empty(0, np.int64)  # by row; capacity grows by doubling
        self._adding = threading.Lock()  # taken first: nothing changes in what is held
        self._lock = threading.Lock()
        self._recall = Recall(dim)
        self._builder: threading.Thread | None = None

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """vectors (m, d) unit rows; ids (m,) new, non-negative."""
        with self._adding, self._lock:
            self._grow(self._index.ntotal + len(ids))
            self._ids[self._index.ntotal : self._index.ntotal + len(ids)] = ids
            self._index.add(np.ascontiguousarray(vectors, np.float32))
            self._recall.add(vectors, ids)
        if not self.is_graph and self._builder is None and self._index.ntotal > self._graph_from:
            self._builder = threading.Thread(target=self._build, args=(self._index,), name="graph", daemon=True)
            self._builder.start()

    def of(self, vectors: Vectors) -> FaissIndex:
        """Another of the same kind over vectors (N, d), with their rows as ids. Takes seconds where they are many."""
        threads = self._build_threads
        other = FaissIndex(self.dim, graph_from=self._graph_from, ef_search=self._ef_search, build_threads=threads)
        if len(vectors):
            other.add(vectors, np.arange(len(vectors)))
            other.settle()
        return other

    def settle(self) -> None:
        """Wait for a graph that is being built, so that what is found does not depend on how long that takes."""
        if self._builder is not None:
            self._builder.join()

    def search(self, queries: Vectors, k: int) -> Hits:
        """queries (m, d) unit rows. One query at a time is remembered."""
        if len(queries) != 1:
            return self._search(queries, k)
        with self._lock:
            found, then = self._recall.find(queries[0], k), self._recall.added
        if found is not None:
            return Hits([found[0]], [found[1]])
        hits = self._search(queries, k)
        with self._lock:
            self._recall.keep(queries[0], k, then, hits.ids[0], hits.similarity[0])
        return hits

    def _search(self, queries: Vectors, k: int) -> Hits:
        with self._lock:
            k = min(k, self._index.ntotal)
            if k == 0:
                empty = np.empty(0, np.int64), np.empty(0, np.float32)
                return Hits([empty[0]] * len(queries), [empty[1]] * len(queries))
            similarity, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
            asked, *found = [faiss.swig_ptr(each) for each in (np.ascontiguousarray(queries), similarity, rows)]
            self._index.search_c(len(queries), asked, k, *found)  # type: ignore[attr-defined]  # 8 µs less
        if rows[:, -1].min() >= 0:  # a graph may find fewer than k, marked -1 at the end of the row
            return Hits(list(self._ids[rows]), list(similarity))
        found = [row[row >= 0] for row in rows]
        return Hits([self._ids[row] for row in found], [s[: len(r)] for s, r in zip(similarity, found, strict=True)])

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_graph(self) -> bool:
        """Whether searches are approximate."""
        return not isinstance(self._index, faiss.IndexFlatIP)

    def save(self, folder: Path) -> None:
        """Write `index.faiss` and `ids.npy`. Raises: OSError."""
        with self._adding:  # searches go on
            index = self._index
            faiss.write_index(index, str(folder / "index.faiss"))
            np.save(folder / "ids.npy", self._ids[: index.ntotal])

    def load(self, folder: Path, *, rows: int) -> None:
        """Inverse of save. Raises: OSError; ValueError where the dimension differs or there are not `rows` vectors."""
        try:
            index, ids = faiss.read_index(str(folder / "index.faiss")), np.load(folder / "ids.npy")
        except RuntimeError as error:  # of FAISS, whatever is wrong with the file
            raise ValueError(f"the stored index cannot be read: {error}") from error
        if index.d != self.dim:
            raise ValueError(f"the stored index has {index.d} dimensions, the embedder {self.dim}")
        if not index.ntotal == len(ids) == rows:
            raise ValueError(f"the stored index has {index.ntotal} vectors and {len(ids)} ids, the table {rows} rows")
        with self._lock:
            self._index, self._builder = index, None
            self._ids = ids
            self._recall = Recall(self.dim)
            if self.is_graph:
                faiss.ParameterSpace().set_index_parameter(self._index, "efSearch", self._ef_search)

    def _grow(self, rows: int) -> None:
        if rows > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty(max(rows, 2 * len(self._ids)) - len(self._ids), np.int64)])

    def _new_graph(self) -> faiss.IndexHNSW:
        """Without vectors."""
        half = faiss.ScalarQuantizer.QT_fp16
        return faiss.IndexHNSWSQ(self.dim, half, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)  # type: ignore[arg-type]  # wrong stub

    def _build(self, flat: faiss.Index) -> None:
        """Grow a graph from a flat index until it holds as much, and let it take over."""
        faiss.omp_set_num_threads(self._build_threads)  # each thread has a number of its own
        graph = self._new_graph()
        graph.hnsw.efConstruction = 200
        graph.hnsw.efSearch = self._ef_search
        while True:
            with self._lock:
                missing = flat.ntotal - graph.ntotal
                late = flat.reconstruct_n(graph.ntotal, min(BUILT_AT_ONCE, missing)) if missing else None
                if missing <= BUILT_LOCKED:
                    if late is not None:
                        graph.add(late)
                    if self._index is flat:  # and not what was loaded meanwhile
                        self._index = graph
                    self._builder = None
                    return
            graph.add(late)
