"""What the engine's measure foretells of each width's loss, beside what it cost: `python -m benchmarks.width_losses`.

The measure is the total variation of the next token on training items; the loss is that of the packed ladder's scores
against each model's widest. Fails where one lies off by more than 2 points.
"""

from __future__ import annotations

from backends.anyprec.names import width_name
from backends.anyprec.profiling import Divergences
from backends.anyprec.store import Store
from backends.family.packed import STORES, WIDTHS, mean_scores
from benchmarks.anyprec import calibration
from policies.priors import width_loss, width_offset
from research.provenance import provenance

ITEMS = 34
MOST_OFF = 2.0  # points


def rows(name: str) -> list[tuple[int, float, float, float, float]]:
    """(width, distance, foretold, the constant of before, measured) of every width but the widest, in points."""
    store, scores = Store.open(STORES[name]), mean_scores()
    divergences = Divergences(store, calibration(ITEMS))
    widest = scores[width_name(name, max(store.bits))]
    found = []
    for k in (k for k in WIDTHS[name] if k < max(store.bits)):
        distance = divergences.distance(dict.fromkeys(store.layers, k))
        lost = 100 * (widest - scores[width_name(name, k)])
        found.append((k, distance, 100 * width_loss(distance), 100 * width_offset(k), lost))
    return found


def main() -> None:
    """Print the table."""
    print("| model | bits | distance | loss foretold, points | the constant | measured |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    worst = 0.0
    for name in STORES:
        for k, distance, foretold, constant, lost in rows(name):
            print(f"| {name} | {k} | {distance:.4f} | {foretold:.1f} | {constant:.1f} | {lost:.1f} |", flush=True)
            worst = max(worst, abs(foretold - lost))
    print(f"at most {worst:.1f} points off\n\n{provenance()}")
    if worst > MOST_OFF:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
