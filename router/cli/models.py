"""The verbs that make and serve models: quantize, compensate, engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add quantize, compensate and engine."""
