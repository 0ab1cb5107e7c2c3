"""Remembers the vectors of the latest texts, so that a text seen again costs a hash."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from backends.types import Embedder

Vector = NDArray[np.float32]


class CachedEmbedder:
    """Any embedder with the vectors of the `most` texts last asked for, found by a 128-bit hash of the text.

    A vector takes 4 d bytes: 10,000 texts of 256 dimensions are 10 MB.
    """

    def __init__(self, embedder: Embedder, *, most: int = 10_000) -> None:
        if most < 1:
            raise ValueError(f"a cache of {most} texts remembers nothing; at least 1 is needed")
        self._embedder = embedder
        self._most = most
        self._vectors: dict[bytes, Vector] = {}  # the one used last stands last
        self._era = 0

    @property
    def is_local(self) -> bool:
        """As the embedder behind it."""
        return self._embedder.is_local

    @property
    def dim(self) -> int:
        """d."""
        return self._embedder.dim

    def __len__(self) -> int:
        return len(self._vectors)

    def cached(self, text: str) -> Vector | None:
        """(d,) float32, read-only, if the text was embedded before; never waits."""
        return self._find(_key(text))

    async def embed(self, texts: Sequence[str]) -> Vector:
        """(m, d) float32, unit rows; asks the embedder once, for the texts it does not remember."""
        if len(texts) == 1 and (vector := self._find(_key(texts[0]))) is not None:
            return vector[None, :]
        keys = [_key(text) for text in texts]
        found = {key: vector for key in keys if (vector := self._find(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            era = self._era
            rows = await self._embedder.embed(list(missing.values()))
            fresh = dict(zip(missing, (_frozen(row) for row in rows), strict=True))
            found |= fresh
            if era == self._era:
                self._remember(fresh)
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dim), np.float32)

    def clear(self) -> None:
        """Forget everything, as is due when the embedder was fitted anew; answers still under way are not kept."""
        self._vectors.clear()
        self._era += 1

    def _find(self, key: bytes) -> Vector | None:
        vector = self._vectors.pop(key, None)
        if vector is not None:
            self._vectors[key] = vector
        return vector

    def _remember(self, fresh: dict[bytes, Vector]) -> None:
        self._vectors |= fresh
        while len(self._vectors) > self._most:
            del self._vectors[next(iter(self._vectors))]


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


def _frozen(row: Vector) -> Vector:
    own = np.array(row, dtype=np.float32)  # a copy: a view would keep the whole batch alive
    own.setflags(write=False)
    return own
