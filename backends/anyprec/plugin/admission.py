"""Checks a request's width in vLLM's front end, before the engine sees it, and keeps widths apart in the prefix cache.

A width the store does not have raises vLLM's validation error, which its server answers with a 400. It does so when
the request's sampling parameters are made, so that a stream is refused before its first byte, and again where the
engine is known. The keys and values of a prompt depend on the width, but vLLM's block hashes do not know it. So the
width, and whether it is the least, is added to the request's cache salt, which they do know.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from backends.anyprec.names import FLOOR_KEY, WIDTH_KEY
from backends.anyprec.plugin.widths import AskedWidth, InvalidWidth, asked_floor, asked_width

_known_bits: set[float] = set()  # of every store this process fronts: one, unless a program opens several engines


def guard_admission(config_class: type, bits: Collection[float]) -> None:
    """Wrap vLLM's sampling parameters and its input processor, once for a process; remember the store's widths."""
    from vllm.v1.engine.input_processor import InputProcessor  # noqa: PLC0415  not yet importable at registration

    _known_bits.update(bits)
    if not hasattr(InputProcessor.process_inputs, "__wrapped__"):
        InputProcessor.process_inputs = _with_width_in_salt(InputProcessor.process_inputs, config_class)
        SamplingParams._verify_args = _with_width_checked(SamplingParams._verify_args)


def _with_width_checked(verify: Any) -> Any:
    @functools.wraps(verify)
    def verify_args(self: Any) -> None:
        verify(self)
        if {WIDTH_KEY, FLOOR_KEY} & (self.extra_args or {}).keys():
            _admit(self.extra_args, _known_bits)

    return verify_args


def _with_width_in_salt(process: Any, config_class: Any) -> Any:
    @functools.wraps(process)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        config: Any = self.vllm_config.quant_config
        if not isinstance(config, config_class):
            return process(self, request_id, prompt, params, *args, **kwargs)
        floor = floor_of(self.vllm_config)
        asked = _admit(getattr(params, "extra_args", None), config.every_width, floor=floor)
        request = process(self, request_id, prompt, params, *args, **kwargs)
        request.cache_salt = f"{WIDTH_KEY}={asked.width}{'+' * asked.floor};{request.cache_salt or ''}"
        return request

    return process_inputs


def floor_of(engine: Any) -> bool:
    """Whether --additional-config says that widths are the least, unless a request says otherwise."""
    said = engine.additional_config
    return asked_floor(said if isinstance(said, Mapping) else None, default=False)


def _admit(extra: Mapping[str, Any] | None, bits: Collection[float], *, floor: bool = False) -> AskedWidth:
    try:
        width = asked_width(extra, bits)
    except InvalidWidth as error:
        raise VLLMValidationError(str(error), parameter=WIDTH_KEY) from error
    try:
        return AskedWidth(width, asked_floor(extra, default=floor))
    except InvalidWidth as error:
        raise VLLMValidationError(str(error), parameter=FLOOR_KEY) from error
