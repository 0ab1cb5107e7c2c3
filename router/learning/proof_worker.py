"""The proof is made in a process of its own: it takes seconds to minutes of arithmetic over the whole log.

The process reads where the store is from a folder and writes the report beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from router.learning.proof import proof_of
from router.learning.refit_worker import NICENESS, run_elsewhere
from router.stores.open import open_stores
from router.types import LogEntry, now_ms

MOST_ENTRIES = 200_000  # of the log, the latest: what they take of memory is a gigabyte at most


async def prove_elsewhere(url: str) -> bytes:
    """The report on the log of the store at this URL, as JSON. Raises: RuntimeError with what the process said."""
    with tempfile.TemporaryDirectory(prefix="pointsman-proof-") as folder:  # nobody else may look into it
        at = Path(folder)
        (at / "url").write_text(url)
        await run_elsewhere("router.learning.proof_worker", folder, what="the proof")
        return await asyncio.to_thread((at / "report.json").read_bytes)


async def _log_of(url: str) -> list[LogEntry]:
    async with open_stores(url, clock=now_ms) as stores:
        return await stores.log.latest(MOST_ENTRIES)


def main(arguments: Sequence[str]) -> None:
    """Prove what is in a folder."""
    os.nice(NICENESS)
    folder = Path(arguments[0])
    entries = asyncio.run(_log_of((folder / "url").read_text()))
    with threadpool_limits(1):
        report = proof_of(entries)
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
