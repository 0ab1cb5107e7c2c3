"""Writes the tables of docs/gpu.md from what benchmarks.kernels and benchmarks.gpu left.

python -m benchmarks.gpu_tables kernels.json gpu-llama-3.1-8b.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LAYERS = ("qkv", "o", "gate_up", "down")
WIDTHS = ((3,), (4,), (6,), (8,), (3, 4, 6, 8))
PEERS = ("bf16", "machete", "fp8", "int8")
Row = dict[str, Any]


def _cell(row: Row) -> str:
    return f"{row['us']:.1f} / {row['of_bandwidth']:.0%} / {row['bf16_us'] / row['us']:.2f}"


class KernelTable:
    """The rows of kernels.json by what they are of."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {
            (r["model"], r["layer"], r["way"], r["batch"], tuple(r.get("widths", ()))): r for r in rows
        }  # fmt: skip
        self.models = list(dict.fromkeys(r["model"] for r in rows))
        self.batches = sorted({r["batch"] for r in rows})

    def find(self, model: str, layer: str, way: str, batch: int, widths: tuple[int, ...] = ()) -> Row | None:
        """One measurement."""
        return self.rows.get((model, layer, way, batch, widths))

    def layers(self, model: str) -> Iterator[str]:
        """A line for each layer and batch: µs, share of the copy bandwidth, times bfloat16."""
        yield "| layer | rows of x | bf16 | Machete | FP8 | INT8 | 3 bits | 4 bits | 6 bits | 8 bits | all mixed |"
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for layer in LAYERS:
            for batch in self.batches:
                others = [self.find(model, layer, way, batch) for way in PEERS]
                ours = [self.find(model, layer, "fused", batch, widths) for widths in WIDTHS]
                cells = [f"{r['us']:.1f}" if r else "" for r in others]
                cells += [_cell(r) if r else "" for r in ours]
                yield f"| {layer} | {batch} | {' | '.join(cells)} |"

    def block(self, model: str) -> str:
        """A whole block of one row: µs, share of the copy bandwidth, times bfloat16."""
        cells = []
        for widths in WIDTHS[:-1]:
            rows = [row for layer in LAYERS if (row := self.find(model, layer, "fused", 1, widths))]
            us = sum(row["us"] for row in rows)
            share = sum(row["of_bandwidth"] * row["us"] for row in rows) / us
            cells.append(f"{us:.1f} / {share:.0%} / {sum(row['bf16_us'] for row in rows) / us:.2f}")
        others = [
            f"{sum(row['us'] for layer in LAYERS if (row := self.find(model, layer, way, 1))):.1f}" for way in PEERS
        ]
        return f"| a block | 1 | {' | '.join([*others, *cells])} | |"

    def mixed(self, model: str) -> Iterator[str]:
        """How many times as long a mixed batch takes as its widest width alone."""
        batches = [batch for batch in self.batches if batch >= 8]
        yield f"| mixed, of 8 bits alone | {' | '.join(map(str, batches))} |"
        yield "|---" * (len(batches) + 1) + "|"
        for layer in LAYERS:
            pairs = [[self.find(model, layer, "fused", b, widths) for widths in WIDTHS[-2:]] for b in batches]
            cells = [f"{mixed['us'] / alone['us']:.2f}" for alone, mixed in pairs if alone and mixed]
            yield f"| {layer} | {' | '.join(cells)} |"


def engines(found: list[Row]) -> Iterator[str]:
    """A line for each engine and width, times bfloat16 in brackets."""
    yield "| | one request, tok/s | 48 at once | 256 at once | first token, ms (median, p95) | start, s | GiB |"
    yield "|---|---|---|---|---|---|---|"
    plain = next(row["-"] for row in found if row["name"] == "bf16")
    for row in found:
        for label in (key for key in ("-", "3", "4", "8", "mixed", "floor") if key in row):
            line = row[label]
            cells = [f"{line[k]:,} ({line[k] / plain[k]:.2f})" if k in line else "" for k in ("1", "48", "256")]
            cells.append(", ".join(map(str, line["first_token_ms"])))
            name = {"-": row["name"], "mixed": "store, mixed", "floor": "store, mixed, widths the least"}.get(label)
            name = name or f"store, {label} bits"
            yield f"| {name} | {' | '.join(cells)} | {row['startup_s']} | {row['weights_gib']} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("engines", type=Path, nargs="*")
    arguments = parser.parse_args()
    measured = json.loads(arguments.kernels.read_text())
    timings = KernelTable(measured["rows"])
    for model in timings.models:
        print(f"\n### {model}\n", *timings.layers(model), timings.block(model), "", *timings.mixed(model), sep="\n")
        print(f"\n{measured['made']}")
    for file in arguments.engines:
        found = json.loads(file.read_text())
        print(f"\n### {file.stem}\n", *engines(found), "", found[-1]["made"], sep="\n")


if __name__ == "__main__":
    main()
