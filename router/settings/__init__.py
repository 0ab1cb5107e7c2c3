"""Typed configuration, validated once; the only reader of the environment. What cannot run raises SettingsError."""

from router.settings.changes import Changes, diff
from router.settings.description import describe
from router.settings.document import Settings, StaticKey
from router.settings.loading import build, load, load_again

__all__ = ["Changes", "Settings", "StaticKey", "build", "describe", "diff", "load", "load_again"]
