"""The embedder is fitted in a process of its own: it takes seconds to minutes of arithmetic.

The process reads counts from a folder and writes what was learned beside them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from threadpoolctl import threadpool_limits

from backends.embedders.hashing import HashingEmbedder
from router.learning.arrays import load_arrays, save_arrays
from router.learning.refit_worker import NICENESS, State, run_elsewhere


async def fit_elsewhere(dim: int, counts: Sequence[bytes]) -> State:
    """What an embedder of `dim` dimensions learns of these counts; empty where they are too few.

    Raises: RuntimeError with what the process said.
    """
    with tempfile.TemporaryDirectory(prefix="pointsman-fit-") as folder:
        at = Path(folder)
        await asyncio.to_thread(lambda: (at / "counts").write_bytes(msgspec.msgpack.encode(counts)))
        await run_elsewhere("router.learning.fit_worker", folder, str(dim), what="the fit of the embedder")
        return await asyncio.to_thread(load_arrays, at / "fitted.npz")


def main(arguments: Sequence[str]) -> None:
    """Fit on the counts in a folder."""
    os.nice(NICENESS)
    folder, dim = Path(arguments[0]), int(arguments[1])
    embedder = HashingEmbedder(dim)
    with threadpool_limits(1):  # sums come out the same wherever this runs
        embedder.fit_counts(msgspec.msgpack.decode((folder / "counts").read_bytes(), type=list[bytes]))
    save_arrays(folder / "fitted.npz", embedder.state())


if __name__ == "__main__":
    main(sys.argv[1:])
