"""The kernels on a real GPU: exact against whole numbers, and a row alone against the same row in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

BATCHES = (1, 2, 4, 5, 8, 13, 16, 29, 48, 64, 130, 300)
SHAPES = ((256, 512), (1536, 1536), (6144, 4096), (2048, 14336), (1000, 272))


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def bench(request: pytest.FixtureRequest) -> Any:
    from benchmarks.kernels import KernelBench

    return KernelBench(*request.param)


def product(bench: Any, x: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    import torch

    from benchmarks.kernels import chosen

    return chosen(x, bench.layers[0], torch.tensor(list(widths), dtype=torch.int32, device="cuda"))


def chain(benches: Sequence[Any], x: torch.Tensor, widths: torch.Tensor, *, pause: bool = False) -> torch.Tensor:
    """Sixteen products, each of the one before; with pauses none begins before that one ends."""
    import torch

    from benchmarks.kernels import chosen

    for i in range(16):
        x = chosen(x, benches[i % 2].layers[0], widths)
        if pause:
            torch.cuda.synchronize()
    return x


def test_every_batch_is_exact_at_every_width_and_mixed_also_with_warm_caches(bench: Any) -> None:
    from benchmarks.kernels import BITS, KernelCase, by_bytes, chosen

    shape = bench.layers[0].rows, bench.columns
    for batch in BATCHES:
        for widths in (*((k,) for k in BITS), tuple(BITS)):
            case = KernelCase(*shape, batch, widths)
            for multiply in (chosen, *([by_bytes(case)] if batch > 16 else [])):
                for _ in range(3):
                    wrong, error = bench.check(case, multiply)
                    assert wrong == 0, (case, multiply)
                    assert error < 2e-3


def test_a_row_is_the_same_to_the_last_bit_alone_and_in_any_batch(bench: Any) -> None:
    import torch

    for batch in BATCHES:
        x = torch.randn(batch, bench.columns, device="cuda", dtype=torch.bfloat16)
        widths = torch.tensor([0, 3, 4, 6, 8])[torch.randint(0, 5, (batch,))].tolist()
        together = product(bench, x, widths)
        for i in range(0, batch, 1 + batch // 16):
            assert torch.equal(together[i], product(bench, x[i : i + 1], widths[i : i + 1])[0]), (batch, i)


def test_a_graph_replays_with_other_widths_and_other_rows(bench: Any) -> None:
    import torch

    from benchmarks.kernels import chosen

    for batch in (1, 4, 8, 16, 30, 48):
        x = torch.randn(batch, bench.columns, device="cuda", dtype=torch.bfloat16)
        widths = torch.full((batch,), 8, dtype=torch.int32, device="cuda")
        chosen(x, bench.layers[0], widths)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = chosen(x, bench.layers[0], widths)
        for _ in range(5):
            asked = torch.tensor([0, 3, 4, 6, 8])[torch.randint(0, 5, (batch,))].tolist()
            x.copy_(torch.randn_like(x))
            widths.copy_(torch.tensor(asked, dtype=torch.int32))
            graph.replay()
            assert torch.equal(out, product(bench, x, asked))


def test_a_chain_in_which_each_kernel_lets_the_next_begin_gives_what_it_gives_step_by_step() -> None:
    import torch

    from benchmarks.kernels import KernelBench

    benches = [KernelBench(3072, 1536), KernelBench(1536, 3072)]
    for m in (1, 8, 16, 32, 48, 100, 130):
        widths = [(3, 4, 6, 8)[i % 4] for i in range(m)]
        x = torch.randn(m, 1536, device="cuda", dtype=torch.bfloat16)

        asked = torch.tensor(widths, dtype=torch.int32, device="cuda")
        wanted = chain(benches, x, asked, pause=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = chain(benches, x, asked)
        for _ in range(20):
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(found, wanted), m
