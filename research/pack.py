"""Pack trained checkpoints into the family's stores: `python -m research.pack CHECKPOINTS`. Needs torch.

Sensitivities are the diagonal Fisher information of the answers, item by item, on training items.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from backends.anyprec.quantize import parse_bits, quantize
from backends.family.packed import FOLDER
from backends.family.sizes import SIZES
from research.checkpoints import load
from research.feed import PROMPT_WEIGHT, SEED, encoded
from research.model import TrainedLlama

CALIBRATION_ITEMS = 600
FLOOR = 0.01  # of a matrix's mean sensitivity: no weight is free


def sensitivities(model: TrainedLlama, *, items: int = CALIBRATION_ITEMS) -> dict[str, Tensor]:
    """Mean squared gradient of an item's answer loss, for every linear weight (N, K), by its checkpoint name."""
    generator = random.Random(SEED + 1)
    matrices = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n}
    sums = {name: torch.zeros_like(weight) for name, weight in matrices.items()}
    for _ in track(range(items), description="sensitivities"):
        gradients = torch.autograd.grad(_answer_loss(model, generator), list(matrices.values()))
        for name, gradient in zip(sums, gradients, strict=True):
            sums[name] += gradient**2
    return {f"model.{name}": total / items + FLOOR * total.mean() / items for name, total in sums.items()}


def _answer_loss(model: TrainedLlama, generator: random.Random) -> Tensor:
    tokens, weights = encoded(generator)
    ids, answered = torch.tensor([tokens]), torch.tensor(weights)[1:] > PROMPT_WEIGHT
    return F.cross_entropy(model(ids[:, :-1])[0, answered], ids[0, 1:][answered], reduction="sum")


def pack(checkpoint: Path, out: Path, *, bits: tuple[int, ...], rows_per_table: int) -> None:
    """Write one checkpoint's store. Raises: AnyprecError."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "sensitivity.safetensors"
        save_file(sensitivities(load(checkpoint)), measured)
        report = quantize(checkpoint, out, bits=bits, rows_per_table=rows_per_table, sensitivity=measured)
    print(f"{out}: {report.payload_bytes:,} bytes, {report.bytes_per_weight:.2f} a quantized weight")


def main() -> None:
    """Pack every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, help="what research.train wrote")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    for name in options.sizes:
        pack(
            options.checkpoints / name,
            options.out / name,
            bits=parse_bits(SIZES[name].bits),
            rows_per_table=SIZES[name].rows_per_table,
        )


if __name__ == "__main__":
    main()
