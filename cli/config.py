"""The settings file that a verb is about: named, or by the environment, or none."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

VARIABLE = "POINTSMAN_CONFIG"


def add_config(parser: argparse.ArgumentParser, *names: str, otherwise: str = "none") -> None:
    """Add an option for it, or an argument that may be left out: `otherwise` says what then stands in its place."""
    named = os.environ.get(VARIABLE, "")
    added = parser.add_argument(
        *(names or ("--config",)),
        type=Path,
        default=Path(named) if named else None,
        help=f"settings file (default: ${VARIABLE} of the environment, else {otherwise})",
    )
    if names:
        added.nargs, added.required = "?", False
