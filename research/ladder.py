"""Measure the family with the numpy engine: `python -m research.ladder`.

accuracy   every candidate's score by skill on held-out items, kept in ladder.json beside the weights. A run that was
           stopped continues with the candidates that are missing
speed      prompt and decode tokens per second of every width, one answer at a time on one thread
table      what docs/family.md shows, from the kept scores and the catalogue's prices
steps      how much each further bit wins on the kept scores, with 95 % intervals
picture    the same as a drawing (needs matplotlib)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from backends.anyprec.engine.sampling import Sampling
from backends.anyprec.engine.scheduler import Job, complete
from backends.anyprec.engine.service import Loaded
from backends.anyprec.engine.weights import Variant
from backends.anyprec.names import width_name
from backends.family.packed import SCORES, STORES
from evaluation.skills import Item, grade
from research import report
from research.provenance import provenance
from research.scores import PER_CELL, candidates, drawn, kept_rows, ladder_of, load, save
from research.tokens import encode_answer, encode_chat

ITEMS_AT_ONCE = 170  # answered between two steps of the progress bar


def answer(loaded: Loaded, items: Sequence[Item], *, bits: int) -> list[str]:
    """Greedy answers of a store at one width, at most 8 tokens longer than the right ones."""
    texts = [""] * len(items)

    def job(place: int) -> Job:
        def deliver(piece: object) -> None:
            texts[place] += piece.text  # type: ignore[attr-defined]

        item = items[place]
        sampling = Sampling(max_tokens=len(encode_answer(item.answer)) + 8, temperature=0.0)
        return Job(encode_chat(item.prompt), Variant(bits), sampling, 0, deliver, _raise)

    complete(loaded.scheduler, [job(place) for place in range(len(items))])
    return texts


def _raise(error: BaseException) -> None:
    raise error


def measure(per_cell: int, *, names: Sequence[str], file: Path, widths: Sequence[int] | None = None) -> None:
    """Let every width of the named stores (or only `widths`) answer the same items, and keep each one's scores."""
    items, kept = drawn(per_cell), kept_rows(file, per_cell)
    asked = [each for each in candidates(names) if widths is None or each[1] in widths]
    with Progress() as bar:
        task = bar.add_task("answering", total=len(asked) * len(items))
        for name, bits in asked:
            if width_name(name, bits) in kept:
                bar.advance(task, len(items))
                continue
            loaded, scores = Loaded(name, STORES[name]), []
            for first in range(0, len(items), ITEMS_AT_ONCE):
                some = items[first : first + ITEMS_AT_ONCE]
                texts = answer(loaded, some, bits=bits)
                scores += [grade(item, text) for item, text in zip(some, texts, strict=True)]
                bar.update(task, advance=len(some), description=width_name(name, bits))
            save(ladder_of({width_name(name, bits): scores}, items), file)
            bar.console.print(f"{width_name(name, bits)} {100 * np.mean(scores):.2f}")


@dataclass(frozen=True)
class MeasuredSpeed:
    """Tokens per second of one candidate, one answer at a time."""

    name: str
    prompt: float
    decode: float


def speeds(names: Sequence[str], *, tokens: int = 200, rounds: int = 5) -> Iterator[MeasuredSpeed]:
    """Median speed of every width, from 200-token prompts and 200-token answers."""
    for name, bits in candidates(names):
        loaded = Loaded(name, STORES[name])
        prompt = ([*encode_chat("How many s's are in processes? " * 8)] * 2)[:tokens]
        read = [_seconds(loaded, prompt, bits=bits, tokens=1) for _ in range(rounds + 1)][1:]
        both = [_seconds(loaded, prompt, bits=bits, tokens=tokens + 1) for _ in range(rounds)]
        yield MeasuredSpeed(
            width_name(name, bits), tokens / np.median(read), tokens / (np.median(both) - np.median(read))
        )


def _seconds(loaded: Loaded, prompt: list[int], *, bits: int, tokens: int) -> float:
    sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    job = Job(prompt, Variant(bits), sampling, 0, lambda piece: None, _raise)
    started = time.perf_counter()
    complete(loaded.scheduler, [job])
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = ["accuracy", "speed", "table", "steps", "picture"]
    parser.add_argument("what", nargs="?", default="table", choices=what)
    parser.add_argument("--per-cell", type=int, default=PER_CELL, help="accuracy: items for every skill and difficulty")
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--widths", nargs="+", type=int, help="accuracy: only these")
    parser.add_argument("--scores", type=Path, default=SCORES, help="where scores are kept")
    parser.add_argument("--out", type=Path, help="where the picture goes")
    options = parser.parse_args()
    console = Console()
    if options.what == "accuracy":
        measure(options.per_cell, names=options.stores, file=options.scores, widths=options.widths)
    elif options.what == "speed":
        for speed in speeds(options.stores):
            print(f"{speed.name:12} prompt {speed.prompt:8.0f} tok/s   decode {speed.decode:7.0f} tok/s", flush=True)
    elif options.what == "table":
        report.show(load(options.scores), console=console)
    elif options.what == "steps":
        report.show_steps(load(options.scores), console=console)
    else:
        report.draw(load(options.scores), options.out)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
