"""What fractional widths win of the gain from 3 bits to 4: `python -m benchmarks.profiles`, for docs/anyprec.md.

A profile is chosen on training items and judged on held-out ones, by the loss of the right answers, beside layers
widened by chance within the same budget. At 3.25 bits it must win 55 % and beat the mean of the draws on every model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.profiling import Divergences, choose_widths, sizes_of
from backends.anyprec.store import Store
from backends.family.packed import STORES
from benchmarks.anyprec import calibration, held_out
from research.provenance import provenance
from research.tokens import encode_answer, encode_chat

NARROW, WIDE = 3, 4
MUST_WIN, MUST_WIN_AT = 55.0, 3.25  # percent


class HeldOutLoss:
    """Loss of held-out answers, in nats a token, at any widths of one store."""

    def __init__(self, store: Store, items: int) -> None:
        pairs = [(encode_chat(item.prompt), encode_answer(item.answer)) for item in held_out(items)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        self._divergences = Divergences(store, [head + tail for head, tail in pairs])
        self._next = np.concatenate([np.array([*head[1:], *tail, 0]) for head, tail in pairs])
        self._reported = np.concatenate([self._answers(len(head), len(tail)) for head, tail in pairs])

    @staticmethod
    def _answers(head: int, tail: int) -> NDArray[np.bool_]:
        places = np.arange(head + tail)
        return (places >= head - 1) & (places < head + tail - 1)

    def loss(self, widths: Mapping[str, int]) -> float:
        """Mean over the answers' tokens."""
        rows = self._divergences.log_probabilities(widths)[self._reported]
        return -float(rows[np.arange(len(rows)), self._next[self._reported]].mean(dtype=np.float64))


def by_chance(sizes: Mapping[str, int], bits: float, rng: np.random.Generator) -> dict[str, int]:
    """Layers in random order, each widened where that still fits into the budget."""
    widths, left = dict.fromkeys(sizes, NARROW), (bits - NARROW) * sum(sizes.values())
    for layer in rng.permutation(list(sizes)):
        if sizes[layer] <= left:
            widths[str(layer)], left = WIDE, left - sizes[layer]
    return widths


def table(name: str, rungs: Sequence[float], *, calibrating: int, items: int, draws: int) -> bool:
    """Print the rungs of one model; whether they keep what is promised of them."""
    store = Store.open(STORES[name])
    texts, judged, sizes = calibration(calibrating), HeldOutLoss(store, items), sizes_of(store)
    losses = {k: judged.loss(dict.fromkeys(store.layers, k)) for k in (NARROW, WIDE)}
    print(f"| {name} | 3 | 3 | {losses[NARROW]:.4f} | 0 | |", flush=True)
    kept = True
    for bits in rungs:
        profile, rng = choose_widths(store, texts, bits=bits), np.random.default_rng(0)
        every = [profile.widths, *(by_chance(sizes, bits, rng) for _ in range(draws))]
        lost = [judged.loss(widths) for widths in every]
        won, *drawn = (100 * (losses[NARROW] - each) / (losses[NARROW] - losses[WIDE]) for each in lost)
        shown = f"{np.mean(drawn):.0f} ({min(drawn):.0f} … {max(drawn):.0f})"
        print(f"| {name} | {bits:g} | {profile.mean_bits:.3f} | {lost[0]:.4f} | {won:.0f} | {shown} |", flush=True)
        kept = kept and bool(won >= np.mean(drawn)) and (won >= MUST_WIN or bits != MUST_WIN_AT)
    print(f"| {name} | 4 | 4 | {losses[WIDE]:.4f} | 100 | |", flush=True)
    return kept


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--bits", nargs="+", type=float, default=[3.25])
    parser.add_argument("--calibrating", type=int, default=64, help="training items")
    parser.add_argument("--items", type=int, default=256, help="held-out items")
    parser.add_argument("--draws", type=int, default=10, help="choices by chance at every number of bits")
    options = parser.parse_args()
    print("| model | bits | mean | loss of the answers | gain won, % | by chance, % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    sizes = {"calibrating": options.calibrating, "items": options.items, "draws": options.draws}
    kept = [table(name, options.bits, **sizes) for name in options.models]
    print(f"\n{provenance()}")
    if not all(kept):
        raise SystemExit("a rung is below what is promised of it")


if __name__ == "__main__":
    main()
