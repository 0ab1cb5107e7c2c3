"""Tells the layers which width each row of the coming batch has, from inside vLLM's model runners.

vLLM has two runners. The newer one asks a "model state" for its inputs before every forward pass and every graph
replay; the older one calls `_model_forward`. The one that runs is followed from the moment its first layer is made.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from backends.anyprec.plugin.widths import AskedWidth, RowWidths

OLDER = "vllm.v1.worker.gpu_model_runner"
NEWER = "vllm.v1.worker.gpu.model_runner"


class NoRunner(RuntimeError):
    """No one model runner of vLLM can be followed: every request would be served at the widest."""


def follow_batches(rows: RowWidths) -> None:
    """Hook the runner of this worker: the one that is imported, or, of two, the one that is making its first layer.

    Raises: NoRunner unless that is exactly one.
    """
    imported = {name: sys.modules[name] for name in (OLDER, NEWER) if name in sys.modules}
    found = imported if len(imported) == 1 else {name: each for name, each in imported.items() if _is_at_work(each)}
    if len(found) != 1:
        said = f"{len(found)} of the {len(imported)} model runners that are imported would be followed"
        raise NoRunner(f"{said}, expected one of {OLDER} and {NEWER}; a request's width would not reach the layers")
    ((name, module),) = found.items()
    try:
        _follow_older(module.GPUModelRunner, rows) if name == OLDER else _follow_newer(module, rows)
    except AttributeError as error:
        raise NoRunner(f"{name} is not as it was ({error}); a request's width would not reach the layers") from error


def _is_at_work(module: Any) -> bool:
    """Whether a model runner of this module is among the callers."""
    frame, runner = sys._getframe(), getattr(module, "GPUModelRunner", ())  # as the loader has no way to say it
    callers = []
    while frame.f_back is not None:
        frame = frame.f_back
        callers.append(frame.f_locals.get("self"))
    return any(isinstance(each, runner) for each in callers)


def _follow_older(runner_class: Any, rows: RowWidths) -> None:
    forward = getattr(runner_class._model_forward, "__wrapped__", runner_class._model_forward)

    @functools.wraps(forward)
    def with_widths(
        self: Any,
        input_ids: Any = None,
        positions: Any = None,
        intermediate: Any = None,
        embeds: Any = None,
        **more: Any,
    ) -> Any:
        embeds = more.pop("inputs_embeds", embeds)
        intermediate = more.pop("intermediate_tensors", intermediate)
        count = self.input_batch.num_reqs
        params = [self.requests[request].sampling_params for request in self.input_batch.req_ids[:count]]
        asked = [rows.asked(each and each.extra_args) for each in params]
        starts = self.query_start_loc.np[: count + 1]
        padded = (embeds if input_ids is None else input_ids).shape[0]
        rows.set_row_widths(asked, starts[1:] - starts[:-1], padded=padded)
        return forward(
            self,
            input_ids=input_ids,
            positions=positions,
            intermediate_tensors=intermediate,
            inputs_embeds=embeds,
            **more,
        )

    runner_class._model_forward = with_widths


def _follow_newer(runner_module: Any, rows: RowWidths) -> None:
    init = getattr(runner_module.init_model_state, "__wrapped__", runner_module.init_model_state)

    @functools.wraps(init)
    def init_model_state(*args: Any, **kwargs: Any) -> Any:
        state = init(*args, **kwargs)
        state.__class__ = _with_widths(type(state), rows)
        return state

    runner_module.init_model_state = init_model_state


def _with_widths(state_class: Any, rows: RowWidths) -> Any:
    """A model state that also tells the layers their rows' widths."""
    asked: dict[str, AskedWidth] = {}

    class WidthsState(state_class):  # type: ignore[misc]
        """Adds the width of each request to what the state remembers."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            params = new_req_data.sampling_params
            asked[new_req_data.req_id] = rows.asked(params and params.extra_args)
            super().add_request(req_index, new_req_data)

        def remove_request(self, req_id: str) -> None:
            asked.pop(req_id, None)
            super().remove_request(req_id)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            starts = input_batch.query_start_loc_np[: input_batch.num_reqs + 1]
            ids, widest = input_batch.req_ids[: input_batch.num_reqs], AskedWidth(max(rows.bits))
            batch = [asked.get(request, widest) for request in ids]
            rows.set_row_widths(batch, starts[1:] - starts[:-1], padded=input_batch.num_tokens_after_padding)
            return super().prepare_inputs(input_batch, req_states)

    return WidthsState
