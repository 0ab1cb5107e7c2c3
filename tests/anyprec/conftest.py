"""One small store for everything that only reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from backends.anyprec.quantize import quantize
from tests.anyprec.llamas import write_llama

threadpool_limits(limits=1, user_api="blas")  # as the engine does when it loads a store


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "checkpoint", shards=2)


@pytest.fixture(scope="session")
def store_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "small"
    quantize(checkpoint, out, rows_per_table=8)
    return out
