"""Train the family: `python -m research.train --out DIR`. Needs torch; one GPU, or a CPU for the small ones.

All sizes see the same batches, each on a stream of its own, so that small models fill the gaps the large one leaves.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F  # noqa: N812  # its usual name
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from backends.family.sizes import BUCKETS, SIZES, STEPS
from research.checkpoints import load, save
from research.feed import SEED, Batch, batches, rows_per_bucket
from research.model import TrainedLlama

WARM_UP_STEPS = 200
ITEMS_PER_STEP = 640
WEIGHT_DECAY = 0.1  # of the matrices: enough that weekday sums are understood and not only learned by heart


class Trainee:
    """One model in training; on a GPU its whole step is one replayed graph."""

    def __init__(self, name: str, *, rows: list[int], device: torch.device, start: Path | None) -> None:
        torch.manual_seed(SEED)
        self.name, self.size = name, SIZES[name]
        self.model = (load(start / name).train() if start and (start / name).exists() else TrainedLlama(self.size)).to(
            device
        )
        self.device, self.graph = device, None
        if device.type == "cuda":
            for layer in self.model.layers:
                layer.compile(dynamic=True)
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.inputs = [
            (torch.full((n, length), 256, device=device), torch.zeros(n, length, device=device))
            for n, length in zip(rows, BUCKETS, strict=True)
        ]
        self.rate = torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        self.matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n]
        self.optimizer = self._adamw()

    def _adamw(self) -> torch.optim.AdamW:
        others = [p for n, p in self.model.named_parameters() if p.dim() < 2 or "embed" in n]
        groups = [{"params": self.matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        on_gpu = self.device.type == "cuda"
        rate: Any = self.rate if on_gpu else 1e-3
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-9, capturable=on_gpu, foreach=on_gpu)

    def step(self, batch: list[tuple[Tensor, Tensor]], *, fraction: float, warm: float) -> None:
        """Learn from one batch at a point of the schedule: `fraction` of all steps done, `warm` of the warm-up."""
        rate = self.size.learning_rate * min(1.0, warm) * (1 - fraction)
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            for (ids, weights), (new_ids, new_weights) in zip(self.inputs, batch, strict=True):
                ids.copy_(new_ids)
                weights.copy_(new_weights)
            self.rate.fill_(rate)
            if self.graph is not None:
                self.graph.replay()
                return
            if self.device.type == "cpu":
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            self._learn()

    def capture(self) -> None:
        """Record the step as a CUDA graph, after the eager warm-up steps."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._learn()
        self.graph = graph

    def _learn(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        scale = 1.0 / sum(weights[:, 1:].sum() for _, weights in self.inputs).clamp(min=1e-6)
        total = torch.zeros((), device=self.device)
        noise = self._shaken()
        for ids, weights in self.inputs:
            loss = self._loss(ids, weights) * scale
            loss.backward()
            total += loss.detach()
        self._settle(noise)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.loss.copy_(total)

    @torch.no_grad()
    def _shaken(self) -> list[Tensor]:
        """Add noise to the matrices for one step; returns it."""
        if not self.size.noise:
            return []
        noise = [torch.randn_like(p) * p.std() * self.size.noise for p in self.matrices]
        torch._foreach_add_(self.matrices, noise)
        return noise

    @torch.no_grad()
    def _settle(self, noise: list[Tensor]) -> None:
        """Take the step's noise away again."""
        if noise:
            torch._foreach_sub_(self.matrices, noise)

    def _loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda", cache_enabled=False):
            logits = self.model(ids[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum()


class Schedule:
    """How far the training is: by steps, or by the clock once the first steps have warmed it up.

    A training may be done in parts: this one leads the learning rate through the fractions `part` of the whole.
    """

    def __init__(self, *, steps: int, seconds: float = 0.0, part: tuple[float, float] = (0.0, 1.0)) -> None:
        self.steps, self.seconds, self.part, self.started = steps, seconds, part, 0.0
        self.first_shard = round(part[0] * 1e6)  # parts never see each other's batches

    def share(self, done: int) -> float:
        """The share of this part behind us, in [0, 1]."""
        self.started = self.started or time.perf_counter()
        return (time.perf_counter() - self.started) / self.seconds if self.seconds else done / self.steps

    def fraction(self, share: float) -> float:
        """The fraction of the whole training behind us."""
        first, last = self.part
        return first + (last - first) * share


def train(
    names: list[str],
    *,
    clock: Schedule,
    device: torch.device,
    workers: int,
    start: Path | None = None,
) -> dict[str, TrainedLlama]:
    """Train the named sizes on the same batches, from the checkpoints in `start` if given."""
    torch._dynamo.config.suppress_errors = True  # a machine that cannot compile trains eagerly
    rows = rows_per_bucket(ITEMS_PER_STEP)
    trainees = [Trainee(name, rows=rows, device=device, start=start) for name in names]
    stream = batches(10**6 if clock.seconds else clock.steps, rows, workers=workers, first_shard=clock.first_shard)
    with _bar(clock.steps) as bar, contextlib.closing(stream):
        task = bar.add_task("training", total=clock.steps, losses="")
        for done, batch in enumerate(stream):
            if (share := clock.share(done)) >= 1.0:
                break
            moved = [_moved(pair, device) for pair in batch]
            _synchronize(device)
            for trainee in trainees:
                trainee.step(moved, fraction=clock.fraction(share), warm=(done + 1) / WARM_UP_STEPS)
            if done == 4 and device.type == "cuda":
                _synchronize(device)
                for trainee in trainees:
                    trainee.capture()
            if done % 100 == 0:
                losses = " ".join(f"{t.name} {float(t.loss):.3f}" for t in trainees)
                bar.update(task, completed=done, losses=losses, total=done / share if share else clock.steps)
                print(f"step {done} ({time.perf_counter() - clock.started:.0f} s) {losses}", flush=True)
    _synchronize(device)
    return {trainee.name: trainee.model.float().eval() for trainee in trainees}


def _moved(pair: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pair[0]).to(device).long(), torch.from_numpy(pair[1]).to(device).float()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def _bar(steps: int) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[losses]}")) as bar:
        yield bar


def main() -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for one checkpoint folder per size")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=0.0, help="train for about this long instead of --steps")
    parser.add_argument("--part", nargs=2, type=float, default=(0.0, 1.0), help="fractions of the learning rate's fall")
    parser.add_argument(
        "--start", type=Path, help="folder of checkpoints to go on from; a size that is missing there starts anew"
    )
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = train(
        options.sizes,
        clock=Schedule(steps=options.steps, seconds=options.seconds, part=tuple(options.part)),
        device=device,
        workers=options.workers,
        start=options.start,
    )
    for name, model in trained.items():
        save(model, options.out / name)


if __name__ == "__main__":
    main()
