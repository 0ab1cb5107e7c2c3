"""Judges offline: replay, tuning, admission of variants, new models, the demo. Nothing that serves imports it."""
