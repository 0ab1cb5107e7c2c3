"""Vectors from a static model (model2vec, extra `static`): a table look-up and a mean, without a network."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.embedders.unit import unit_rows

_LONG = 20_000  # characters: about a millisecond, more leaves the event loop


class StaticEmbedder:
    """The model at `path`, a folder or a name on the model hub.

    Raises (on construction): ImportError where the extra is not installed, and what model2vec raises where there is
    no such model.
    """

    def __init__(self, path: str) -> None:
        try:
            library: Any = importlib.import_module("model2vec")
        except ImportError as problem:
            raise ImportError("a static embedder needs the extra `static`") from problem
        self._model = library.StaticModel.from_pretrained(path, force_download=False)

    @property
    def is_local(self) -> bool:
        """The model is in this process; only its weights may be fetched."""
        return True

    @property
    def dim(self) -> int:
        """d."""
        return int(self._model.dim)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(m, d) float32, unit rows."""
        if sum(map(len, texts)) > _LONG:
            return await asyncio.to_thread(self._encode, list(texts))
        return self._encode(list(texts))

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.dim), np.float32)
        return unit_rows(self._model.encode(texts, use_multiprocessing=False))
