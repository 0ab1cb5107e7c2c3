"""What can go wrong with a store, its makers and its engine.

AnyprecError
├── Corrupt       a file is missing, truncated or not the one that was written
├── Unsupported   the checkpoint, width or architecture is not one this package can handle
└── NoRoom        the disk is too small for what would be written
"""

from __future__ import annotations


class AnyprecError(Exception):
    """The root. Messages name the file or tensor, and the value and the limit."""


class Corrupt(AnyprecError):
    """A store or checkpoint that is not what it says it is."""


class Unsupported(AnyprecError):
    """Asked for something this package does not do."""


class NoRoom(AnyprecError):
    """Too little disk."""
