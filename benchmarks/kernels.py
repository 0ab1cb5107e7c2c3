"""Times the any-precision kernels on a GPU against torch's bfloat16 product, after checking them in float64.

    python -m benchmarks.kernels --out kernels.json            the figures of docs/gpu.md
    python -m benchmarks.kernels --out tune.json --tune         every candidate launch, on a few shapes

Rows of "in turn" are what large batches outside CUDA graphs get: each width dequantized in parts, times those rows.

Times are of CUDA graph replays over several copies of the layer, together larger than the cache. The floor of a time
is the fewest bytes (planes of the width, its tables, x and the result) over the measured copy bandwidth.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backends.anyprec.kernels import fused, portable
from backends.anyprec.kernels.launches import Few, Launch, Many
from backends.anyprec.kernels.layout import Laid, lay_out_for_gpu, widest_codes

BITS = [3, 4, 6, 8]
BATCHES = [1, 8, 64, 512]
CACHE_BYTES = 256 << 20  # rotate over this much, several times the last-level cache
SHAPES = {  # (N, K), as vLLM fuses them
    "llama-3.1-8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)},
    "qwen2.5-1.5b": {"qkv": (2048, 1536), "o": (1536, 1536), "gate_up": (17920, 1536), "down": (1536, 8960)},
}
LAUNCHES: list[Launch] = [  # worth timing
    *(Few(tiles, *sizes) for tiles in (1, 2) for sizes in ((4, 2, 4, 4), (4, 2, 4, 3), (4, 2, 6, 2), (2, 1, 8, 2))),
    *(Many(*sizes) for sizes in ((16, 4), (32, 4), (64, 4), (128, 2))),
]
TUNED_ON = [shape for layers in SHAPES.values() for shape in layers.values()]
Run = Callable[[int], torch.Tensor]  # copy number -> result


@dataclass(frozen=True, slots=True)
class Case:
    """One product to time."""

    rows: int  # N
    columns: int  # K
    batch: int
    widths: tuple[int, ...]  # of the rows of x, in turn


def random_layer(rows: int, columns: int, seed: int) -> tuple[Laid, torch.Tensor, dict[int, torch.Tensor]]:
    """A layer on the GPU with its codes (N, K) and tables, for the reference."""
    generator = torch.Generator("cuda").manual_seed(seed)
    words = -(-columns // 32)
    planes = torch.randint(-(2**31), 2**31, (max(BITS), rows, words), generator=generator, device="cuda")
    planes = planes.to(torch.int32)
    finest = torch.randn(rows, 2 ** max(BITS), generator=generator, device="cuda").sort(1).values * columns**-0.5
    tables = {k: finest.view(rows, 2**k, -1).mean(2).to(torch.float16) for k in BITS}
    return lay_out_for_gpu(planes.view(torch.uint32), tables), planes, tables


def exact(x: torch.Tensor, planes: torch.Tensor, tables: dict[int, torch.Tensor], widths: torch.Tensor) -> torch.Tensor:
    """The product in float64, from the store's own planes and float16 tables."""
    codes = widest_codes(planes, columns=x.shape[1])
    joined = torch.cat([tables[k] for k in BITS], dim=1).double()
    return portable.linear(x.double(), codes, joined, widths, BITS)


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of the reference; infinite if anything is NaN."""
    error = float((out.double() - reference).norm() / reference.norm())
    return float("inf") if math.isnan(error) else error


def seconds_each(run: Run, copies: int) -> float:
    """Median time of one call, replayed from a graph that makes a call on each copy."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [run(i) for i in range(copies)]
    graph.replay()
    times = []
    for _ in range(7):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / copies)
    del kept
    return float(sorted(times)[len(times) // 2])


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large device-to-device copy."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    ways = (lambda _: target.copy_(source), lambda _: torch.neg(source, out=target))  # the copy engine, a kernel
    fastest = min(seconds_each(way, 3) for way in ways)
    return float(2 * source.numel() * source.element_size() / fastest)


def copies_for(bytes_each: float) -> int:
    """How many copies to rotate over."""
    return int(max(2, min(48, CACHE_BYTES // bytes_each + 1)))


def floor_bytes(case: Case) -> float:
    """Fewest bytes: the widest width's planes, tables of the widths present, x and the result."""
    present = set(case.widths[: case.batch])
    weights = max(present) / 8 * case.rows * case.columns + sum(2 * 2**k for k in present) * case.rows
    return float(weights + 2 * case.batch * (case.rows + case.columns))


class KernelBench:
    """Layers of one shape on the GPU, timed at many batch sizes."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self.layers = [random_layer(rows, columns, 0)]
        while len(self.layers) < copies_for(3 / 8 * rows * columns):
            first = self.layers[0]
            self.layers.append((Laid(first[0].codes.clone(), first[0].tables.clone()), *first[1:]))
        plenty = copies_for(2 * rows * columns)
        self.dense = [torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(plenty)]

    def inputs(self, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, K) and widths (batch,)."""
        x = torch.randn(case.batch, case.columns, device="cuda", dtype=torch.bfloat16)
        widths = [case.widths[i % len(case.widths)] for i in range(case.batch)]
        return x, torch.tensor(widths, dtype=torch.int32, device="cuda")

    def dense_seconds(self, case: Case) -> float:
        """torch's own bfloat16 product."""
        x, _ = self.inputs(case)
        return seconds_each(lambda i: torch.nn.functional.linear(x, self.dense[i]), len(self.dense))

    def run(self, case: Case, multiply: Callable[..., torch.Tensor]) -> tuple[float, float]:
        """Relative error and seconds of multiply(x, codes, tables, widths, bits)."""
        x, widths = self.inputs(case)
        laid, planes, tables = self.layers[0]
        out = multiply(x, laid.codes, laid.tables, widths, BITS)
        error = relative_error(out, exact(x, planes, tables, widths))
        used = copies_for(max(case.widths) / 8 * case.rows * case.columns)
        layers = self.layers[:used]
        seconds = seconds_each(
            lambda i: multiply(x, layers[i][0].codes, layers[i][0].tables, widths, BITS), len(layers)
        )
        return error, seconds


def by_launch(how: Launch) -> Callable[..., torch.Tensor]:
    """The fused kernels with the given sizes."""
    return partial(fused.launch, how=how)


def by_width(present: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """Dequantize some rows, multiply, repeat, for each width in turn."""
    return partial(fused.large, present=present)


def candidates(batch: int, present: tuple[int, ...]) -> Iterator[tuple[str, Callable[..., torch.Tensor]]]:
    """Launches worth timing for a batch size, with their names."""
    if batch >= 64:
        yield "in turn", by_width(present)
    for how in LAUNCHES:
        if (batch <= 16) == isinstance(how, Few):
            yield str(how), by_launch(how)
    yield "chosen", fused.linear


def tune(limit_s: float) -> list[dict[str, Any]]:
    """Every candidate on a few shapes, best first for each case."""
    found, start = [], time.time()
    for shape in TUNED_ON:
        bench = KernelBench(*shape)
        for batch in BATCHES:
            dense = bench.dense_seconds(Case(*shape, batch, (16,)))
            for widths in ((3,), (4,), (6,), (8,), tuple(BITS)) if batch > 1 else ((3,), (4,), (6,), (8,)):
                case = Case(*shape, batch, widths)
                timed = []
                for name, multiply in candidates(batch, widths):
                    if time.time() - start > limit_s:
                        continue
                    try:
                        error, seconds = bench.run(case, multiply)
                        timed.append((round(seconds * 1e6, 1), name, round(error, 5)))
                    except Exception as error:
                        timed.append((1e9, f"{name}: {str(error)[:60]}", 1.0))
                found.append({**asdict(case), "dense_us": round(dense * 1e6, 1), "timed": sorted(timed)})
                show_tuned(found[-1])
        del bench
        torch.cuda.empty_cache()
    return found


def show_tuned(row: dict[str, Any]) -> None:
    """The three best of one case on one line."""
    best = "  ".join(f"{us:.1f} [{name}]" for us, name, error in row["timed"][:3])
    worst = max((error for us, _, error in row["timed"] if us < 1e9), default=0)
    name = f"{row['rows']}x{row['columns']} m{row['batch']} {row['widths']}"
    print(f"{name} bf16 {row['dense_us']} | {best} | e{worst:.4f}", flush=True)


def figures(bandwidth: float, models: list[str]) -> Iterator[dict[str, Any]]:
    """Every shape, batch and width with the launch the plugin would choose; prints a line for each shape and batch."""
    print("µs, share of the copy bandwidth, times faster than bf16, for", *BITS, "bits and all of them mixed")
    for model, layer, shape in ((name, *each) for name in models for each in SHAPES[name].items()):
        bench = KernelBench(*shape)
        for batch in BATCHES:
            dense = bench.dense_seconds(Case(*shape, batch, (16,)))
            ways = {"": fused.linear} | ({"in turn": None} if batch >= fused.LARGE else {})
            for way, multiply in ways.items():
                rows = []
                for widths in [(k,) for k in BITS] + ([tuple(BITS)] if batch > 1 else []):
                    case = Case(*shape, batch, widths)
                    error, seconds = bench.run(case, multiply or by_width(widths))
                    rows.append({
                        "model": model, "layer": layer, "way": way, **asdict(case), "error": error, "us": seconds * 1e6,
                        "dense_us": dense * 1e6, "of_bandwidth": floor_bytes(case) / seconds / bandwidth,
                    })  # fmt: skip
                cells = [f"{r['us']:7.1f} {r['of_bandwidth']:4.0%} {r['dense_us'] / r['us']:4.2f}x" for r in rows]
                name = f"{model:13} {layer:8} m{batch:<4} {way:7}"
                print(f"{name} bf16 {dense * 1e6:7.1f} | " + " | ".join(cells), flush=True)
                yield from rows
        del bench
        torch.cuda.empty_cache()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--limit-s", type=float, default=120, help="stop tuning after this long")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s")
    found = tune(arguments.limit_s) if arguments.tune else list(figures(bandwidth, arguments.models))
    if not arguments.tune:
        print("largest relative error", max(row["error"] for row in found))
    if arguments.out:
        arguments.out.write_text(json.dumps({"bandwidth": bandwidth, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
