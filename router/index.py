"""Past queries by their embedding: FAISS, flat while small and a graph beyond, and the brute force it must agree with.

Fails only where memory does. Vectors are unit rows, so the inner product is the cosine.
"""

from __future__ import annotations

import threading
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from router.ports import Hits

faiss.omp_set_num_threads(1)  # two cores are shared with the event loop

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


class BruteForceIndex:
    """The reference: every search looks at every vector."""

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((0, dim), np.float32)
        self._ids = np.empty(0, np.int64)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """See NeighbourIndex.add."""
        self._vectors = np.vstack([self._vectors, vectors])
        self._ids = np.concatenate([self._ids, ids])

    def search(self, queries: Vectors, k: int) -> Hits:
        """See NeighbourIndex.search."""
        similarity = queries @ self._vectors.T  # (m, N)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(self))]
        return Hits([self._ids[row] for row in order], [s[row] for s, row in zip(similarity, order, strict=True)])

    def __len__(self) -> int:
        return len(self._ids)


class FaissIndex:
    """IndexFlatIP up to `graph_from` vectors, IndexHNSWFlat beyond (M = 32, ef_construction = 200).

    The graph is built aside while the flat index goes on answering; additions after the switch go into it at once.
    One thread adds, any thread searches: a lock keeps them apart, since FAISS itself allows concurrent searches only.
    """

    def __init__(self, dim: int, *, graph_from: int = 5_000, ef_search: int = 64) -> None:
        self.dim = dim
        self._graph_from = graph_from
        self._ef_search = ef_search
        self._index: faiss.Index = faiss.IndexFlatIP(dim)
        self._ids = np.empty(0, np.int64)  # by row; capacity grows by doubling
        self._lock = threading.Lock()

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """See NeighbourIndex.add."""
        with self._lock:
            self._grow(self._index.ntotal + len(ids))
            self._ids[self._index.ntotal : self._index.ntotal + len(ids)] = ids
            self._index.add(np.ascontiguousarray(vectors, np.float32))
        if not self.is_graph and self._index.ntotal > self._graph_from:
            graph = self._as_graph(self._index)
            with self._lock:
                self._index = graph

    def search(self, queries: Vectors, k: int) -> Hits:
        """See NeighbourIndex.search."""
        with self._lock:
            k = min(k, self._index.ntotal)
            if k == 0:
                empty = np.empty(0, np.int64), np.empty(0, np.float32)
                return Hits([empty[0]] * len(queries), [empty[1]] * len(queries))
            similarity, rows = self._index.search(queries, k)
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
        with self._lock:
            faiss.write_index(self._index, str(folder / "index.faiss"))
            np.save(folder / "ids.npy", self._ids[: self._index.ntotal])

    def load(self, folder: Path) -> None:
        """Inverse of save. Raises: OSError; ValueError where the dimension differs."""
        index = faiss.read_index(str(folder / "index.faiss"))
        if index.d != self.dim:
            raise ValueError(f"the stored index has {index.d} dimensions, the embedder {self.dim}")
        with self._lock:
            self._index = index
            self._ids = np.load(folder / "ids.npy")
            if self.is_graph:
                self._index.hnsw.efSearch = self._ef_search

    def _grow(self, rows: int) -> None:
        if rows > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty(max(rows, 2 * len(self._ids)) - len(self._ids), np.int64)])

    def _as_graph(self, flat: faiss.Index) -> faiss.Index:
        graph = faiss.IndexHNSWFlat(self.dim, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 200
        graph.hnsw.efSearch = self._ef_search
        graph.add(flat.reconstruct_n(0, flat.ntotal))
        return graph
