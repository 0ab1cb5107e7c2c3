"""Serves an any-precision store with vLLM: one copy of the weights, each request its own width.

vLLM calls `register` in every one of its processes (entry point `vllm.general_plugins`). A request names its width in
`vllm_xargs: {"anyprec_bits": 3}`; without one it gets the widest.
"""

from __future__ import annotations

import logging

from backends.anyprec.plugin.versions import UnsupportedVersion, require_supported


def register() -> None:
    """Make quant_method "anyprec" known to vLLM; a release that was never tried is told so and refuses stores.

    Idempotent.
    """
    import vllm  # noqa: PLC0415  vLLM's own time
    from vllm.model_executor.layers.quantization import register_quantization_config  # noqa: PLC0415

    try:
        require_supported(vllm.__version__)
    except UnsupportedVersion as error:
        logging.getLogger("vllm.anyprec").error("%s", error)  # other models are served all the same
        return
    from backends.anyprec.plugin.config import AnyprecConfig  # noqa: PLC0415  imports vLLM

    register_quantization_config("anyprec")(AnyprecConfig)
