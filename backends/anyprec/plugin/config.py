"""What vLLM needs to know of a store: its widths, how its layers are loaded and how they multiply."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.platforms import current_platform

from backends.anyprec.plugin.admission import floor_of, guard_admission
from backends.anyprec.plugin.cards import show_widths
from backends.anyprec.plugin.head import WholeBlocksHead
from backends.anyprec.plugin.linear import AnyprecLinearMethod
from backends.anyprec.plugin.runners import follow_batches
from backends.anyprec.plugin.versions import require_supported
from backends.anyprec.plugin.widths import RowWidths
from backends.anyprec.profiles import Profile, part_widths, read_profiles
from backends.anyprec.store import read_config

STORE_VERSION = 1


class AnyprecConfig(QuantizationConfig):  # type: ignore[misc]  # vLLM is untyped here
    """`quantization_config` of a store's config.json."""

    def __init__(self, *, bits: list[int], rows_per_table: int, in_features: dict[str, int]) -> None:
        super().__init__()
        self.bits = tuple(sorted(bits))
        self.rows_per_table = rows_per_table
        self.in_features = in_features
        self.profiles: tuple[Profile, ...] = ()
        self.rows: RowWidths | None = None  # made with the first layer, in the worker

    @classmethod
    def get_name(cls) -> str:
        """The quant_method."""
        return "anyprec"

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """Activations the kernels take; a CPU takes more."""
        if current_platform.is_cpu():
            return [torch.bfloat16, torch.float16, torch.float32]
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Tensor cores with bfloat16."""
        return 80

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Everything is in config.json."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AnyprecConfig:
        """Raises: ValueError for a store of another version; UnsupportedVersion for another vLLM."""
        require_supported(vllm.__version__)
        if config.get("version") != STORE_VERSION:
            raise ValueError(f"an anyprec store of version {STORE_VERSION} was expected, not {config.get('version')}")
        cls._set_row_widths(sorted(config["bits"]))
        return cls(
            bits=config["bits"],
            rows_per_table=config.get("rows_per_table", 1),
            in_features=config.get("in_features", {}),
        )

    @classmethod
    def _set_row_widths(cls, bits: Collection[float]) -> None:
        """Tell the front end of this process what may be asked for."""
        guard_admission(cls, bits)
        show_widths(bits)

    def maybe_update_config(self, model_name: str, *_: Any, **__: Any) -> None:
        """Read the store's profiles; vLLM calls this with the model's folder. Raises: AnyprecError for a bad one."""
        folder = Path(model_name)
        if (folder / "config.json").is_file():
            self.profiles = read_profiles(folder, read_config(folder))
            self._set_row_widths(self.every_width)

    @property
    def every_width(self) -> tuple[float, ...]:
        """What a request may ask for: the stored widths, then the profiles'."""
        return (*self.bits, *(profile.bits for profile in self.profiles))

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Linear layers of the decoder are quantized; embeddings and the head, which may be one, are not."""
        if isinstance(layer, VocabParallelEmbedding):
            return WholeBlocksHead()
        if not isinstance(layer, LinearBase):
            return None
        if not prefix.startswith("model.layers."):
            return UnquantizedLinearMethod()
        return AnyprecLinearMethod(
            self.bits,
            rows_per_table=self.rows_per_table,
            row_widths=self.row_widths,
            parts=part_widths(prefix, self.bits, self.profiles),
        )

    def row_widths(self, device: torch.device) -> RowWidths:
        """The buffer all layers of this engine share; the first call also hooks the worker's model runner."""
        if self.rows is None:
            engine = get_current_vllm_config()
            fractions = [profile.bits for profile in self.profiles]
            rows, floor = _most_rows(engine), floor_of(engine)
            self.rows = RowWidths(self.bits, rows=rows, device=device, fractions=fractions, floor=floor)
            follow_batches(self.rows)
        return self.rows


def _most_rows(engine: VllmConfig) -> int:
    captured = engine.compilation_config.max_cudagraph_capture_size or 0
    return max(int(engine.scheduler_config.max_num_batched_tokens), int(captured))
