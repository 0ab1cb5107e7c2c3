"""The verbs that judge and tune policies: replay, tune, onboard, admit."""

from __future__ import annotations

from typing import Any

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add replay, tune, onboard and admit."""
