"""Where the packed weights lie, the widths that are measured, and what they scored."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "stores"
SIZES_IN_ORDER = ("small", "medium", "large")
STORES: dict[str, Path] = {name: FOLDER / name for name in SIZES_IN_ORDER}
WIDTHS: dict[str, tuple[int, ...]] = {"small": (3, 4, 5, 6), "medium": (3, 4, 5, 6), "large": (3, 4, 5, 6, 8)}
SCORES = FOLDER / "ladder.json"  # written by `python -m research.ladder accuracy`
MARKS = "0123456789A"  # tenths of a score there


def mean_scores(file: Path = SCORES) -> dict[str, float]:
    """Mean held-out score of every measured candidate, in [0, 1]."""
    rows: dict[str, str] = json.loads(file.read_text())["scores"]
    return {name: round(sum(map(MARKS.index, row)) / (10 * len(row)), 4) for name, row in rows.items()}
