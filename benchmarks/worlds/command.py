"""The verbs: run worlds, replay one, and show that every mutant dies.

A run says which seeds failed and how; `replay SEED` prints every line of one, which is the same each time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.worlds.mutants import MUTANTS

for library in ("OMP", "OPENBLAS", "MKL"):  # a world is one thread, and numpy is not imported yet
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
MEMORY = Path("/dev/shm")
SHOWN = 5
OF_A_MUTANT = 400  # worlds, until it must be dead


def main(arguments: list[str]) -> int:
    """0 where nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worlds", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="worlds of these seeds")
    run.add_argument("seeds", help="A..B")
    run.add_argument("--processes", type=int, default=2)
    run.add_argument("--mutant", choices=MUTANTS)
    replay = verbs.add_parser("replay", help="one world, line by line")
    replay.add_argument("seed", type=int)
    verbs.add_parser("mutants", help="a table of mistakes and the first seed that notices each")
    asked = parser.parse_args(arguments)
    if asked.verb == "replay":
        return _replay(asked.seed)
    if asked.verb == "mutants":
        return _mutants()
    first, last = (int(each) for each in asked.seeds.split(".."))
    return _hunt(asked.mutant, first, last) if asked.mutant else _run(first, last, asked.processes)


def _run(first: int, last: int, processes: int) -> int:
    began, failed, digests = time.monotonic(), [], 0
    with ProcessPoolExecutor(processes) as pool:
        for seed, digest, complaints in pool.map(judged, range(first, last + 1), chunksize=10):
            digests ^= int(digest, 16)
            if complaints:
                failed.append(seed)
                print(f"seed {seed} ({digest}):", *complaints[:SHOWN], sep="\n  ", flush=True)
    worlds = last - first + 1
    print(f"{worlds} worlds, {len(failed)} failed, {time.monotonic() - began:.0f} s, digest {digests:016x}")
    if failed:
        print(f"python -m benchmarks.worlds replay {failed[0]}")
    return int(bool(failed))


def judged(seed: int) -> tuple[int, str, list[str]]:
    """(seed, digest, complaints) of one world."""
    from benchmarks.worlds.verdict import WorldVerdict  # noqa: PLC0415  (after a mutant was planted)
    from benchmarks.worlds.world import SeededWorld  # noqa: PLC0415

    base = Path(tempfile.mkdtemp(prefix="worlds-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        world = SeededWorld(seed, base).run()
        return seed, world.digest, WorldVerdict(world).complaints()
    except Exception as error:  # a world that cannot go on is no reason to leave the others
        return seed, "0", [f"the world ended: {error!r}"]
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _replay(seed: int) -> int:
    from benchmarks.worlds.verdict import WorldVerdict  # noqa: PLC0415
    from benchmarks.worlds.world import SeededWorld  # noqa: PLC0415

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as base:
        world = SeededWorld(seed, Path(base)).run()
    complaints = WorldVerdict(world).complaints()
    print(*world.lines, f"digest {world.digest}", *complaints, sep="\n")
    return int(bool(complaints))


def _hunt(name: str, first: int, last: int) -> int:
    """Until the mutant is noticed."""
    MUTANTS[name].plant()
    for seed in range(first, last + 1):
        _, _, complaints = judged(seed)
        if complaints:
            print(f"{seed}\t{complaints[0]}")
            return 1
    return 0


def _mutants() -> int:
    """The table for docs/money.md."""
    print("| mistake | where | first seed that notices | what it says |\n|---|---|---|---|")
    survivors = 0
    for name, mutant in MUTANTS.items():
        command = [sys.executable, "-m", "benchmarks.worlds", "run", f"1..{OF_A_MUTANT}", "--mutant", name]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if found.returncode != 1 or "\t" not in found.stdout:
            survivors += 1
            said = found.stderr.strip().splitlines()[-1:] or [f"it lives after {OF_A_MUTANT} worlds"]
            print(f"| {mutant.what} | {mutant.module} | none | {said[0]} |", flush=True)
            continue
        seed, _, complaint = found.stdout.strip().partition("\t")
        print(f"| {mutant.what} | {mutant.module} | {seed} | {complaint[:150]} |", flush=True)
    return int(bool(survivors))
