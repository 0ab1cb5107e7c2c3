"""Where the packed weights lie, and the widths that are measured."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "stores"
SIZES_IN_ORDER = ("small", "medium", "large")
STORES: dict[str, Path] = {name: FOLDER / name for name in SIZES_IN_ORDER}
WIDTHS: dict[str, tuple[int, ...]] = {"small": (3, 4, 5, 6), "medium": (3, 4, 5, 6, 8), "large": (3, 4, 5, 6, 8)}
