"""Backends call models: engines, providers and embedders, knowing nothing of the gateway."""
