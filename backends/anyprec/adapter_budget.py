"""Which layers an adapter compensates where its bytes are bounded: those that gain most for each byte.

A layer's gain is what KL(widest || narrow) of the next token falls by on calibration text when that layer alone is
compensated. Gains are measured twice: with none compensated, to spend half of the bytes, and from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.anyprec.engine.weights import Matrix
from backends.anyprec.errors import Unsupported
from backends.anyprec.profiling import Divergences
from backends.anyprec.store import Store

Factors = Mapping[str, tuple[Matrix, Matrix]]  # layer -> A (r, K), B (N, r)
SHARES = (0.5, 1.0)  # of the bytes that are spent after each time that gains are measured


def adapter_bytes(factors: Factors) -> int:
    """Of an adapter's tensors."""
    return sum(a.nbytes + b.nbytes for a, b in factors.values())


def within_bytes(
    store: Store, factors: Factors, texts: Sequence[Sequence[int]], *, bits: int, most_bytes: int
) -> dict[str, tuple[Matrix, Matrix]]:
    """The layers' factors that are kept. Raises: Unsupported where not one layer fits."""
    divergences, widths = Divergences(store, texts), dict.fromkeys(store.layers, bits)
    least = min(a.nbytes + b.nbytes for a, b in factors.values())
    if most_bytes < least:
        raise Unsupported(f"{most_bytes:,} bytes hold no layer of the adapter, the smallest takes {least:,}")
    kept: dict[str, tuple[Matrix, Matrix]] = {}
    for share in SHARES:
        left = {layer: pair for layer, pair in factors.items() if layer not in kept}
        now = divergences.of(widths, kept)
        gains = {layer: now - divergences.of(widths, {**kept, layer: pair}) for layer, pair in left.items()}
        for layer in sorted(left, key=lambda each: -gains[each] / adapter_bytes({each: left[each]})):
            if gains[layer] > 0 and adapter_bytes({**kept, layer: left[layer]}) <= share * most_bytes:
                kept[layer] = left[layer]
    return kept
