"""Serves an any-precision store with vLLM: one copy of the weights, each request its own width.

vLLM calls `register` in every one of its processes (entry point `vllm.general_plugins`). A request names its width in
`vllm_xargs: {"anyprec_bits": 3}`; without one it gets the widest.
"""

from __future__ import annotations


def register() -> None:
    """Make quant_method "anyprec" known to vLLM. Idempotent."""
    from vllm.model_executor.layers.quantization import register_quantization_config  # noqa: PLC0415  vLLM's own time

    from backends.anyprec.plugin.config import AnyprecConfig  # noqa: PLC0415  imports vLLM

    register_quantization_config("anyprec")(AnyprecConfig)
