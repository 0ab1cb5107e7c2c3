"""Vectors from a sentence model in ONNX (fastembed, extra `sentence`), computed in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.embedders.unit import unit_rows


class SentenceEmbedder:
    """fastembed's `model`, from its cache folder, from `path`, or downloaded when first used.

    Raises (on construction): ImportError where the extra is not installed, and what fastembed raises where the model
    can be had nowhere.
    """

    def __init__(self, model: str = "BAAI/bge-small-en-v1.5", *, path: str | None = None, threads: int = 1) -> None:
        try:
            library: Any = importlib.import_module("fastembed")
        except ImportError as problem:
            raise ImportError("a sentence embedder needs the extra `sentence`") from problem
        options = {"specific_model_path": path} if path else {}
        self._model = library.TextEmbedding(model, threads=threads, **options)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sentence")
        self._dim = len(self._encode(["dimension"])[0])

    @property
    def is_local(self) -> bool:
        """The model is in this process; only its weights may be fetched."""
        return True

    @property
    def dim(self) -> int:
        """d."""
        return self._dim

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(m, d) float32, unit rows."""
        if not texts:
            return np.empty((0, self._dim), np.float32)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, list(texts))

    async def aclose(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return unit_rows(np.stack(list(self._model.embed(texts))))
