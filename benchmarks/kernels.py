"""Times a layer's product at every width on a GPU beside bfloat16, Machete, FP8 and INT8, after an exact check.

    python -m benchmarks.kernels --out kernels.json            every layer, batch and width: the tables of docs/gpu.md
    python -m benchmarks.kernels --out tune.json --tune         every launch of gemm.cu and hopper_gemm.cu worth trying

The exact result is made of whole numbers in float64, on inputs drawn for each check. It is compared before and after
the timing, so that a race that only warm caches show is seen. Times are medians of CUDA graph replays over copies of
the layer larger than the cache, x's quantization included. A share is of the copy bandwidth, by the fewest bytes:
planes of the widest width, tables, x and the result. "Bytes" is what a large batch gets outside CUDA graphs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backends.anyprec.kernels import fused, launches
from backends.anyprec.kernels.fused import Operand
from backends.anyprec.kernels.launches import GemmLaunch
from backends.anyprec.kernels.layout import UNIT, Numbers, step_of, to_gpu_layout, widest_codes
from research.provenance import provenance

BITS = [3, 4, 6, 8]
BATCHES = [1, 4, 8, 16, 32, 64, 128, 256, 512]
CACHE_BYTES = 256 << 20  # rotate over this much, several times the last-level cache
SHAPES = {  # (N, K), as vLLM fuses them
    "llama-3.1-8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)},
    "qwen2.5-1.5b": {"qkv": (2048, 1536), "o": (1536, 1536), "gate_up": (17920, 1536), "down": (1536, 8960)},
}
Run = Callable[[int], torch.Tensor]  # copy number -> result
Multiply = Callable[[torch.Tensor, Operand, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One product to time."""

    rows: int  # N
    columns: int  # K
    batch: int
    widths: tuple[int, ...]  # of the rows of x, in turn


def random_planes(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """A layer as a store holds it, on the GPU: planes int32 (P, N, K/32) and nested tables."""
    generator = torch.Generator("cuda").manual_seed(seed)
    size = (max(BITS), rows, -(-columns // 32))
    planes = torch.randint(-(2**31), 2**31, size, generator=generator, device="cuda").to(torch.int32)
    finest = torch.randn(rows, 2 ** max(BITS), generator=generator, device="cuda").sort(1).values * columns**-0.5
    return planes, {k: finest.view(rows, 2**k, -1).mean(2).to(torch.float16) for k in BITS}


class Exact:
    """A layer's weights as whole numbers, decoded from the store's own planes."""

    def __init__(self, planes: torch.Tensor, tables: Mapping[int, torch.Tensor], columns: int) -> None:
        self.codes = widest_codes(planes, columns=columns)
        self.numbers = Numbers.of({k: table.float() for k, table in tables.items()})

    def weights(self, width: int, rows: slice) -> torch.Tensor:
        """Whole numbers (rows, K) in float64."""
        codes, numbers = self.codes[rows], self.numbers
        part = Numbers({k: table[rows] for k, table in numbers.small.items()}, numbers.wide[rows], numbers.scale[rows])
        if width <= 4:
            return part.small[width].gather(1, (codes >> (max(BITS) - width)).long()).double()
        base = part.small[4].gather(1, (codes >> (max(BITS) - 4)).long())
        rest = part.rest(codes, bits=max(BITS)).long()
        return (base + ((rest & 12) - 6 if step_of(width) == 6 else rest - 8)).double()

    def product(self, x: torch.Tensor, widths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The result to the last bit, and the same product in float64."""
        most = x.float().abs().amax(1, keepdim=True)
        levels = torch.full_like(most, 127)  # a tensor, for torch divides by a number by multiplying
        whole = (x.float() * (levels / most)).round().double()
        sums = torch.zeros(len(x), len(self.codes), dtype=torch.float64, device=x.device)
        for width in widths.unique().tolist():
            asked = widths == width
            for first in range(0, len(self.codes), 4096):
                rows = slice(first, first + 4096)
                sums[asked, rows] = whole[asked] @ self.weights(width, rows).t()
        rounded = (most / levels) * (self.numbers.scale * sums.float())
        return rounded.to(torch.bfloat16), (most / levels).double() * self.numbers.scale.double() * sums


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
    return float(statistics.median(times))


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


def floor_bytes(case: KernelCase) -> float:
    """Fewest bytes: the widest width's planes, tables, x and the result."""
    weights = max(case.widths[: case.batch]) / 8 * case.rows * case.columns + 32 * case.rows
    return weights + 2 * case.batch * (case.rows + case.columns)


class KernelBench:
    """A layer of one shape on the GPU, timed at many batch sizes."""

    def __init__(self, rows: int, columns: int) -> None:
        self.columns = columns
        planes, tables = random_planes(rows, columns, 0)
        self.exact = Exact(planes, tables, columns)
        layout = to_gpu_layout(planes.view(torch.uint32), tables, columns=columns)
        copies = copies_for(3 / 8 * rows * columns)
        codes = [layout.codes, *(layout.codes.clone() for _ in range(copies - 1))]
        self.layers = [Operand(each, layout.tables, tuple(BITS), rows) for each in codes]

    def inputs(self, case: KernelCase) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, K) and widths (batch,)."""
        x = torch.randn(case.batch, case.columns, device="cuda", dtype=torch.bfloat16)
        widths = [case.widths[i % len(case.widths)] for i in range(case.batch)]
        return x, torch.tensor(widths, dtype=torch.int32, device="cuda")

    def check(self, case: KernelCase, multiply: Multiply) -> tuple[int, float]:
        """How many elements differ from the exact result, and the relative error in float64, on fresh inputs."""
        x, widths = self.inputs(case)
        rounded, product = self.exact.product(x, widths)
        torch.empty(rounded.shape, device="cuda", dtype=torch.bfloat16).fill_(float("nan"))  # what is allocated next
        out = multiply(x, self.layers[0], widths)
        return int((out != rounded).sum()), relative_error(out, product)

    def run(self, case: KernelCase, multiply: Multiply) -> dict[str, Any]:
        """Wrong elements, relative error and microseconds."""
        x, widths = self.inputs(case)
        before = self.check(case, multiply)
        layers = self.layers[: copies_for(max(case.widths) / 8 * case.rows * case.columns)]
        seconds = seconds_each(lambda i: multiply(x, layers[i], widths), len(layers))
        after = self.check(case, multiply)
        return {"us": seconds * 1e6, "wrong": before[0] + after[0], "error": max(before[1], after[1])}


def chosen(x: torch.Tensor, layer: Operand, widths: torch.Tensor) -> torch.Tensor:
    """What a CUDA graph gets."""
    return fused.linear(x, layer.codes, layer.tables, widths, list(layer.bits), layer.rows)


def by_bytes(case: KernelCase) -> Multiply:
    """What a large batch outside a graph gets."""
    asked = [case.widths[i % len(case.widths)] for i in range(case.batch)]
    counts = {width: asked.count(width) for width in set(asked)}
    return lambda x, layer, widths: fused.by_bytes(x, layer, widths, counts)


def by_launch(how: GemmLaunch) -> Multiply:
    """gemm.cu with given sizes."""
    return lambda x, layer, widths: fused.gemm(x, layer, widths, how)


def tune(limit_s: float, models: list[str], batches: list[int]) -> list[dict[str, Any]]:
    """Launches on every shape, best first for each case."""
    found: list[dict[str, Any]] = []
    start = time.time()
    for shape in (shape for model in models for shape in SHAPES[model].values()):
        bench = KernelBench(*shape)
        for batch, widths in itertools.product(batches, ((4,), tuple(BITS))):
            if time.time() - start > limit_s:
                return found
            case = KernelCase(*shape, batch, widths)
            found.append({**asdict(case), "timed": sorted(timed(bench, case))})
            print(shape, batch, widths, found[-1]["timed"][:4], "chosen", found[-1]["timed"][-1], flush=True)
        del bench
        torch.cuda.empty_cache()
    return found


def timed(bench: KernelBench, case: KernelCase) -> Iterator[tuple[float, str]]:
    """Microseconds and name of every launch worth trying."""
    units, processors = -(-case.columns // UNIT), fused.processors(0)
    x, asked = bench.inputs(case)
    best = launches.gemm_launch(
        case.batch, rows=case.rows, units=units, processors=processors, hopper=True, clusters=True
    )
    sizes = [
        GemmLaunch(best.granules, warps, cluster, wgmma, depth)
        for wgmma in (False, True)
        for depth in (2, 3)
        for warps in (4, 8, 10, 12, 14, 16)
        for cluster in (1, 2, 4)
        if cluster <= units and not (wgmma and warps % 4)
    ]
    for how in sizes:
        blocks = -(-case.rows // (16 * how.warps)) * how.cluster
        if launches.gemm_shared_bytes(how, BITS) <= launches.SHARED_BYTES and 64 <= blocks <= 264:
            seconds = seconds_each(partial(_launched, bench, x, asked, how), 4)
            name = f"{'wgmma' if how.wgmma else 'mma'} w{how.warps} c{how.cluster} d{how.depth}"
            yield round(seconds * 1e6, 1), name
    sides = {"rows": case.rows, "units": units, "processors": processors}
    for _, each in launches.hopper_launches(case.batch, **sides):
        seconds = seconds_each(lambda i, each=each: fused.hopper_gemm(x, bench.layers[i], asked, each), 4)  # type: ignore[misc]
        yield round(seconds * 1e6, 1), f"hopper {each}"
    seconds = seconds_each(partial(_launched, bench, x, asked, None), 4)
    yield round(seconds * 1e6, 1), f"chosen {best}, or hopper {launches.hopper_launch(case.batch, **sides)}"


def _launched(bench: KernelBench, x: torch.Tensor, asked: torch.Tensor, how: GemmLaunch | None, i: int) -> torch.Tensor:
    return fused.gemm(x, bench.layers[i], asked, how)


def figures(bandwidth: float, models: list[str], batches: list[int]) -> Iterator[dict[str, Any]]:
    """Every shape, batch and width with the launch the plugin would choose; prints a line for each shape and batch."""
    print("µs, share of the copy bandwidth, times faster than bf16, for", *BITS, "bits and all of them mixed")
    for model, layer, shape in ((name, *each) for name in models for each in SHAPES[name].items()):
        others = list(peers(*shape, batches))
        for row in others:
            row |= {"model": model, "layer": layer}
        yield from others
        dense = {row["batch"]: row["us"] for row in others if row["way"] == "bf16"}
        bench = KernelBench(*shape)
        for batch in batches:
            for way in ("fused", "bytes") if batch >= 64 else ("fused",):
                rows = []
                for widths in [(k,) for k in BITS] + ([tuple(BITS)] if batch > 1 else []):
                    case = KernelCase(*shape, batch, widths)
                    timing = bench.run(case, by_bytes(case) if way == "bytes" else chosen)
                    of_bandwidth = floor_bytes(case) / timing["us"] / 1e-6 / bandwidth
                    place = {"model": model, "layer": layer, "way": way, **asdict(case)}
                    rows.append({**place, **timing, "bf16_us": dense[batch], "of_bandwidth": of_bandwidth})
                cells = [f"{r['us']:6.1f} {r['of_bandwidth']:4.0%} {r['bf16_us'] / r['us']:4.2f}x" for r in rows]
                wrong, error = sum(r["wrong"] for r in rows), max(r["error"] for r in rows)
                name = f"{model[:5]} {layer:8} m{batch:<4} {way:6}"
                others_us = " ".join(f"{o['way']} {o['us']:.1f}" for o in others if o["batch"] == batch)
                print(f"{name} | {' | '.join(cells)} | {others_us} | wrong {wrong} e {error:.4f}", flush=True)
                yield from rows
        del bench
        torch.cuda.empty_cache()


def peers(rows: int, columns: int, batches: list[int]) -> Iterator[dict[str, Any]]:
    """torch's bfloat16 product, and vLLM's Machete (W4A16, groups of 128), FP8 and INT8, x's quantization included."""
    from vllm import _custom_ops as ops  # noqa: PLC0415  the check of the kernels alone needs no vLLM
    from vllm.scalar_type import scalar_types  # noqa: PLC0415

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    scales, grouped = torch.rand(1, rows, device="cuda"), normal(columns // 128, rows).abs() * 0.01
    kind = scalar_types.uint4b8

    def bf16(n: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
        weights = [normal(rows, columns) * 0.02 for _ in range(n)]
        return lambda x, i: torch.nn.functional.linear(x, weights[i])

    def machete(n: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
        words = [
            torch.randint(-(2**31), 2**31 - 1, (rows, columns // 8), dtype=torch.int32, device="cuda") for _ in range(n)
        ]
        packed = [ops.machete_prepack_B(each.t(), torch.bfloat16, kind, torch.bfloat16) for each in words]
        return lambda x, i: ops.machete_mm(a=x, b_q=packed[i], b_type=kind, b_group_scales=grouped, b_group_size=128)

    def fp8(n: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
        weights = [normal(rows, columns).to(torch.float8_e4m3fn).t() for _ in range(n)]

        def product(x: torch.Tensor, i: int) -> torch.Tensor:
            narrow, scale = ops.scaled_fp8_quant(x, use_per_token_if_dynamic=True)
            return ops.cutlass_scaled_mm(narrow, weights[i], scale, scales, torch.bfloat16)

        return product

    def int8(n: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
        weights = [torch.randint(-127, 128, (rows, columns), device="cuda", dtype=torch.int8).t() for _ in range(n)]

        def product(x: torch.Tensor, i: int) -> torch.Tensor:
            narrow, scale, _ = ops.scaled_int8_quant(x)
            return ops.cutlass_scaled_mm(narrow, weights[i], scale, scales, torch.bfloat16)

        return product

    for way, make, bytes_a_weight in (
        ("bf16", bf16, 2.0),
        ("machete", machete, 0.5),
        ("fp8", fp8, 1.0),
        ("int8", int8, 1.0),
    ):
        copies = copies_for(bytes_a_weight * rows * columns)
        product = make(copies)
        for batch in batches:
            x = normal(batch, columns)
            seconds = seconds_each(partial(product, x), copies)
            yield {"way": way, "rows": rows, "columns": columns, "batch": batch, "us": seconds * 1e6}
        del product
        torch.cuda.empty_cache()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--limit-s", type=float, default=120, help="stop tuning after this long")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s")
    asked = arguments.models, arguments.batches
    found = tune(arguments.limit_s, *asked) if arguments.tune else list(figures(bandwidth, *asked))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"bandwidth": bandwidth, "rows": found, "made": provenance()}, indent=1))


if __name__ == "__main__":
    main()
