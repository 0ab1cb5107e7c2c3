"""The verbs: run worlds, replay one, and show that every mutant dies.

A run says which seeds failed and how; `replay SEED` prints every line of one, which is the same each time. With a
journal a long run may be ended at any time: the next one goes on behind the last block of seeds of the same code.
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

import msgspec

from benchmarks.worlds.mutants import MUTANTS
from research.provenance import commit, provenance

for library in ("OMP", "OPENBLAS", "MKL"):  # a world is one thread, and numpy is not imported yet
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
MEMORY = Path("/dev/shm")
SHOWN = 5
A_BLOCK = 500
OF_A_MUTANT = 400  # worlds, until it must be dead


def main(arguments: list[str]) -> int:
    """0 where nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worlds", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="worlds of these seeds")
    run.add_argument("seeds", help="A..B")
    run.add_argument("--processes", type=int, default=2)
    run.add_argument("--mutant", choices=MUTANTS)
    run.add_argument("--journal", type=Path, help="a file of blocks that have been run")
    replay = verbs.add_parser("replay", help="one world, line by line")
    replay.add_argument("seed", type=int)
    verbs.add_parser("mutants", help="a table of mistakes and the first seed that notices each")
    asked = parser.parse_args(arguments)
    if asked.verb == "replay":
        return _replay(asked.seed)
    if asked.verb == "mutants":
        return _mutants()
    first, last = (int(each) for each in asked.seeds.split(".."))
    if asked.mutant:
        return _hunt(asked.mutant, first, last)
    if asked.journal:
        return _resumed(asked.journal, range(first, last + 1), asked.processes)
    block = _run(range(first, last + 1), asked.processes)
    print(f"{block.worlds} worlds, {len(block.failed)} failed, {block.seconds:.0f} s, digest {block.digest}")
    return _failures(block.failed)


class SeedBlock(msgspec.Struct):
    """Seeds that were run."""

    commit: str
    first: int
    worlds: int
    failed: list[int]
    seconds: float
    digest: str


def _run(seeds: range, processes: int) -> SeedBlock:
    began, failed, digests = time.monotonic(), [], 0
    with ProcessPoolExecutor(processes) as pool:
        for seed, digest, complaints in pool.map(judged, seeds, chunksize=10):
            digests ^= int(digest, 16)
            if complaints:
                failed.append(seed)
                print(f"seed {seed} ({digest}):", *complaints[:SHOWN], sep="\n  ", flush=True)
    return SeedBlock(commit(), seeds[0], len(seeds), failed, time.monotonic() - began, f"{digests:016x}")


def _resumed(journal: Path, seeds: range, processes: int) -> int:
    """SeedBlock after block, each written down when it has ended; prints the table for docs/money.md."""
    blocks = msgspec.json.Decoder(SeedBlock).decode_lines(journal.read_bytes()) if journal.exists() else []
    done = {block.first for block in blocks if block.commit == commit()}
    for first in seeds[::A_BLOCK]:
        if first not in done:
            blocks.append(_run(range(first, min(first + A_BLOCK, seeds[-1] + 1)), processes))
            with journal.open("ab") as file:
                file.write(msgspec.json.encode(blocks[-1]) + b"\n")
    print("| code | worlds | failed | hours |\n|---|---|---|---|")
    for code in dict.fromkeys(block.commit for block in blocks):
        own = [block for block in blocks if block.commit == code]
        failed = [seed for block in own for seed in block.failed]
        shown = ", ".join(map(str, failed)) or "none"
        print(f"| {code} | {sum(b.worlds for b in own):,} | {shown} | {sum(b.seconds for b in own) / 3600:.1f} |")
    print(f"\n{provenance()}")
    return _failures([seed for block in blocks for seed in block.failed])


def _failures(failed: list[int]) -> int:
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
        seeds = f"{mutant.first}..{mutant.first + OF_A_MUTANT - 1}"
        command = [sys.executable, "-m", "benchmarks.worlds", "run", seeds, "--mutant", name]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if found.returncode != 1 or "\t" not in found.stdout:
            survivors += 1
            said = found.stderr.strip().splitlines()[-1:] or [f"it lives after {OF_A_MUTANT} worlds"]
            print(f"| {mutant.what} | {mutant.module} | none | {said[0]} |", flush=True)
            continue
        seed, _, complaint = found.stdout.strip().partition("\t")
        print(f"| {mutant.what} | {mutant.module} | {seed} | {complaint[:150]} |", flush=True)
    print(f"\n{provenance()}")
    return int(bool(survivors))
