"""How fast the numpy engine is and what memory it takes: `python -m benchmarks.engine` on one core.

Tokens per second of every store of the family, or of the folders given. One answer at a time at each width, eight
answers at one width, then eight answers at three widths in one batch. Each is by the clock and by the processor's time,
which differ where other processes share the core. Last what memory grew by, beside its bound of 1.3 times the store's
tensors plus 60 MB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from research.provenance import provenance

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
TOKENS, PROMPT_TOKENS, ROUNDS = 128, 32, 5


def resident_bytes() -> int:
    """Of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path) -> None:
    """Print one store's lines."""
    from backends.anyprec.engine.sampling import Sampling  # noqa: PLC0415  # after the threads are pinned
    from backends.anyprec.engine.scheduler import Job, complete  # noqa: PLC0415
    from backends.anyprec.engine.service import Loaded  # noqa: PLC0415
    from backends.anyprec.engine.weights import Variant  # noqa: PLC0415

    before = resident_bytes()
    loaded = Loaded(folder.name, folder)

    def failed(error: BaseException) -> None:
        raise error

    def tokens_per_s(widths: list[int]) -> tuple[float, float]:
        sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        prompt = list(range(65, 65 + PROMPT_TOKENS))
        jobs = [Job(prompt, Variant(bits), sampling, 0, lambda _: None, failed) for bits in widths]
        clock, processor = time.perf_counter(), time.process_time()
        complete(loaded.scheduler, jobs)
        tokens = TOKENS * len(widths)
        return tokens / (time.perf_counter() - clock), tokens / (time.process_time() - processor)

    def show(what: str, widths: list[int]) -> None:
        tokens_per_s(widths)
        by_clock, by_processor = zip(*(tokens_per_s(widths) for _ in range(ROUNDS)), strict=True)
        rates = f"{statistics.median(by_clock):7.0f} {statistics.median(by_processor):7.0f}"
        print(f"  {what:28}{rates} tokens/s by the clock, by processor time", flush=True)

    bits = loaded.model.weights.store.bits
    payload = loaded.model.weights.store.payload_bytes()
    print(f"{folder.name}: {loaded.model.shape.parameters():,} weights, {payload:,} bytes of tensors")
    for k in bits:
        show(f"1 answer at {k} bits", [k])
    mixed = ([bits[0], bits[1], bits[-1]] * 8)[:8]
    show(f"8 answers at {bits[0]} bits", [bits[0]] * 8)
    show(f"8 answers at {bits[0]}, {bits[1]} and {bits[-1]} bits", mixed)
    grown, bound = resident_bytes() - before, 1.3 * payload + 60e6
    print(f"  memory grew by {grown / 1e6:.1f} MB; the bound is {bound / 1e6:.1f} MB", flush=True)


def main() -> None:
    """Each store in a process of its own, pinned to one core and one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", type=Path, help="store folders (default: the family's)")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    options = parser.parse_args()
    if options.here:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        measure(options.stores[0])
        return
    stores = options.stores
    if not stores:
        from backends.family.packed import STORES  # noqa: PLC0415

        stores = list(STORES.values())
    for store in stores:
        command = [sys.executable, "-m", "benchmarks.engine", "--here", str(store)]
        subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=True)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
