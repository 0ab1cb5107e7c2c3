"""Checks a request's width in vLLM's front end, before the engine sees it, and keeps widths apart in the prefix cache.

A width the store does not have raises vLLM's validation error, which its server answers with a 400. The keys and
values of a prompt depend on the width, but vLLM's block hashes do not know it: the width is added to the request's
cache salt, which they do know.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm.exceptions import VLLMValidationError

from backends.anyprec.plugin.widths import ARGUMENT, InvalidWidth, asked_width


def guard_admission(config_class: type) -> None:
    """Wrap vLLM's input processor and its sampling parameters, once for a process."""
    from vllm.v1.engine.input_processor import InputProcessor  # noqa: PLC0415  not yet importable at registration

    if getattr(InputProcessor.process_inputs, "knows_widths", False):
        return
    process = InputProcessor.process_inputs

    @functools.wraps(process)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        config = self.vllm_config.quant_config
        if not isinstance(config, config_class):
            return process(self, request_id, prompt, params, *args, **kwargs)
        width = _admit(getattr(params, "extra_args", None), config.bits)  # type: ignore[attr-defined]
        request = process(self, request_id, prompt, params, *args, **kwargs)
        request.cache_salt = f"{ARGUMENT}={width};{request.cache_salt or ''}"
        return request

    process_inputs.knows_widths = True  # type: ignore[attr-defined]
    InputProcessor.process_inputs = process_inputs


def _admit(extra: dict[str, Any] | None, bits: tuple[int, ...]) -> int:
    try:
        return asked_width(extra, bits)
    except InvalidWidth as error:
        raise VLLMValidationError(str(error), parameter=ARGUMENT) from error
