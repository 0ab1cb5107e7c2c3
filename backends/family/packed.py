"""Where the packed weights lie."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "stores"
SIZES_IN_ORDER = ("small", "medium", "large")
STORES: dict[str, Path] = {name: FOLDER / name for name in SIZES_IN_ORDER}
WIDTHS = (3, 4, 5, 6, 8)
