"""The vLLM releases whose own functions the plugin wraps, each tried with a store."""

from __future__ import annotations

SUPPORTED = {"0.26": "CUDA, newer model runner", "0.32": "CPU, older model runner"}


class UnsupportedVersion(RuntimeError):
    """This vLLM is none of those the plugin was tried with."""


def require_supported(version: str) -> None:
    """Raises: UnsupportedVersion, with the version and those that are supported."""
    if ".".join(version.split(".")[:2]) not in SUPPORTED:
        raise UnsupportedVersion(f"vLLM is {version}; any-precision stores are served by {', '.join(SUPPORTED)}")
