"""Counts rows by the width that was asked for and the width that served them, for the engine's /metrics.

The worker counts in a file that the front end of the same machine made and reads. Without that file nothing is counted.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "POINTSMAN_ANYPREC_SERVED"  # the environment variable that names it, which workers inherit
METRIC = "anyprec_rows"


_published: list[ServedRows] = []  # by this process: one, unless widths became known later


class ServedRows:
    """Rows computed so far: one number for each width asked for and each that served."""

    def __init__(self, path: Path, bits: Sequence[float]) -> None:
        self._bits = tuple(bits)
        self._rows = np.asarray(np.memmap(path, np.int64, "r+", shape=(len(bits), len(bits))))

    @classmethod
    def of_environment(cls, bits: Sequence[float]) -> ServedRows | None:
        """Where the front end made a file for these widths; None elsewhere."""
        path, size = Path(os.environ.get(FILE, "")), 8 * len(bits) ** 2
        return cls(path, bits) if path.is_file() and path.stat().st_size == size else None

    @classmethod
    def made(cls, bits: Sequence[float]) -> ServedRows:
        """A new file, told to the workers to come, and deleted with this process."""
        handle, name = tempfile.mkstemp(prefix="anyprec-served-")
        os.truncate(handle, 8 * len(bits) ** 2)
        os.close(handle)
        atexit.register(Path(name).unlink, missing_ok=True)
        os.environ[FILE] = name
        return cls(Path(name), bits)

    def add(self, asked: NDArray[np.int64], served: NDArray[np.int64], counts: NDArray[np.integer[Any]]) -> None:
        """Rows of requests: places of their widths in `bits`, and how many rows each has."""
        size = len(self._bits)
        rows = np.bincount(asked * size + served, weights=counts, minlength=size * size)
        self._rows += rows.astype(np.int64).reshape(size, size)

    def collect(self) -> Iterator[Any]:
        """For prometheus_client: a counter with a label for each of both widths."""
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415  vLLM brings it

        found = CounterMetricFamily(
            METRIC, "Rows by the width asked for and that computed.", labels=["asked", "served"]
        )
        for asked, served in np.argwhere(self._rows).tolist():
            found.add_metric([f"{self._bits[i]:g}" for i in (asked, served)], float(self._rows[asked, served]))
        yield found


def publish(bits: Collection[float]) -> None:
    """Make the file and show its numbers in this process's /metrics, instead of those of fewer widths."""
    from prometheus_client import REGISTRY  # noqa: PLC0415  vLLM brings it

    while _published:
        REGISTRY.unregister(_published.pop())
    _published.append(ServedRows.made(tuple(bits)))
    REGISTRY.register(_published[0])
