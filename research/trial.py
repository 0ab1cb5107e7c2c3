"""Judge every width of trained checkpoints before packing: `python -m research.trial DIR`. Needs torch.

With `--packed` it judges the packed stores' own weights instead, on as many items as tell one width from the next. The
linear weights of a checkpoint are replaced by nested tables: 3 bits seeded by k-means, each cluster split in two per
further bit. That is the store's own scheme, computed quickly and without sensitivities.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from backends.anyprec.names import width_name
from backends.anyprec.store import Store
from backends.family.packed import STORES
from backends.family.sizes import SIZES
from evaluation.skills import LEVELS, SKILLS, Item, grade, sample
from research import report, scores
from research.checkpoints import load
from research.model import TrainedLlama
from research.provenance import provenance
from research.tokens import END, PAD, decode, encode_answer, encode_chat

WIDTHS = (3, 4, 5, 6, 8)


def widths_of(weight: Tensor, *, rows_per_table: int, rounds: int = 20) -> dict[int, Tensor]:
    """The weight (N, K) at each of WIDTHS, from tables shared by `rows_per_table` rows."""
    values = weight.reshape(weight.shape[0] // rows_per_table, -1)
    places = (torch.arange(8, device=weight.device) + 0.5) / 8
    centroids = values.sort(dim=1).values[:, (places * (values.shape[1] - 1)).long()]
    for _ in range(rounds * 2):
        codes = torch.searchsorted((centroids[:, 1:] + centroids[:, :-1]).contiguous() / 2, values)
        centroids = _means(values, codes, centroids)
    found = {3: torch.gather(centroids, 1, codes).reshape(weight.shape)}
    for bits in range(4, 9):
        codes, centroids = _split(values, codes, centroids, rounds)
        found[bits] = torch.gather(centroids, 1, codes).reshape(weight.shape)
    return {bits: found[bits] for bits in WIDTHS}


def _split(values: Tensor, codes: Tensor, centroids: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Split every cluster in two by 2-means, within the cluster."""
    spread = torch.gather(centroids, 1, codes).sub(values).pow(2)
    count = torch.zeros_like(centroids).scatter_add_(1, codes, torch.ones_like(values)).clamp(min=1)
    std = (torch.zeros_like(centroids).scatter_add_(1, codes, spread) / count).sqrt()
    children = torch.stack((centroids - 0.7 * std, centroids + 0.7 * std), dim=2).flatten(1)
    for _ in range(rounds):
        middles = children.unflatten(1, (-1, 2)).mean(dim=2)
        finer = 2 * codes + (values > torch.gather(middles, 1, codes)).long()
        children = _means(values, finer, children)
    return finer, children


def _means(values: Tensor, codes: Tensor, fallback: Tensor) -> Tensor:
    total = torch.zeros_like(fallback).scatter_add_(1, codes, values)
    count = torch.zeros_like(fallback).scatter_add_(1, codes, torch.ones_like(values))
    return torch.where(count > 0, total / count.clamp(min=1), fallback)


def at_widths(model: TrainedLlama) -> dict[int, TrainedLlama]:
    """Copies of the model with its linear layers at each of WIDTHS; 16 is the model itself."""
    models = {bits: copy.deepcopy(model) for bits in WIDTHS}
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embed" not in name:
            narrowed = widths_of(weight.detach().float(), rows_per_table=model.size.rows_per_table)
            for bits, copied in models.items():
                copied.get_parameter(name).data.copy_(narrowed[bits])
    return models | {16: model}


@torch.inference_mode()
def answers(model: TrainedLlama, items: list[Item], *, rows: int = 2048) -> list[str]:
    """Greedy answers to the items, `rows` at a time; at most 8 tokens more than the right answer has."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
    texts: dict[int, str] = {}
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        texts |= zip(chosen, _greedy(model, [items[i] for i in chosen]), strict=True)
    return [texts[i] for i in range(len(items))]


def _greedy(model: TrainedLlama, items: list[Item]) -> list[str]:
    device = model.cos.device
    heads = [encode_chat(item.prompt) for item in items]
    longest, room = max(map(len, heads)), max(len(encode_answer(item.answer)) for item in items) + 8
    ids = torch.full((len(items), longest), PAD)
    for row, head in enumerate(heads):
        ids[row, : len(head)] = torch.tensor(head)
    lengths = torch.tensor([len(head) for head in heads], device=device)
    cache = model.empty_cache(len(items), longest + room)
    at = torch.arange(longest, device=device).expand(len(items), longest)
    logits = model.extend(ids.to(device), cache=cache, at=at)
    token = logits[torch.arange(len(items), device=device), lengths - 1].argmax(-1)
    written, alive = [token], token != END
    for step in range(room - 1):
        token = model.extend(token[:, None], cache=cache, at=(lengths + step)[:, None])[:, 0].argmax(-1)
        written.append(token)
        alive &= token != END
        if step % 8 == 7 and not alive.any():
            break
    return [decode(row) for row in torch.stack(written, dim=1).tolist()]


def table(models: dict[str, dict[int, TrainedLlama]], items: list[Item]) -> dict[str, dict[str, list[float]]]:
    """Mean score by candidate ("large@3") and skill, one number per difficulty."""
    result: dict[str, dict[str, list[float]]] = {}
    for name, widths in models.items():
        for bits, model in sorted(widths.items()):
            cells: dict[tuple[str, int], list[float]] = defaultdict(list)
            for item, text in zip(items, answers(model, items), strict=True):
                cells[item.skill, item.difficulty].append(grade(item, text))
            result[width_name(name, bits)] = {
                skill: [float(np.mean(cells[skill, level])) for level in LEVELS] for skill in SKILLS
            }
    return result


def show(result: dict[str, dict[str, list[float]]]) -> None:
    """Print accuracy in percent: the mean over difficulties by skill, then levels 1..5 of the full-precision models."""
    names = list(result)
    print(f"{'':12}" + "".join(f"{name[:1]}{name.split('@')[1]:>4}" for name in names))
    for skill in SKILLS:
        levels = "  ".join(
            "/".join(f"{100 * x:.0f}" for x in result[name][skill]) for name in names if name.endswith("@16")
        )
        print(f"{skill:12}" + "".join(f"{100 * np.mean(result[name][skill]):5.0f}" for name in names) + "   " + levels)
    print(f"{'mean':12}" + "".join(f"{100 * np.mean(list(result[name].values())):5.1f}" for name in names))


def drawn(per_cell: int) -> list[Item]:
    """The test items: the same number for every skill and difficulty, the same every time."""
    return sample(per_cell * len(SKILLS) * len(LEVELS), rng=np.random.default_rng(7), split="test")


def packed_at(name: str, bits: int) -> TrainedLlama:
    """A packed store's weights at one width."""
    store, model = Store.open(STORES[name]), TrainedLlama(SIZES[name])
    for weight_name, weight in model.named_parameters():
        layer = f"model.{weight_name.removesuffix('.weight')}"
        kept = store.dequantize(layer, bits) if layer in store.layers else store.tensor(f"model.{weight_name}")
        weight.data.copy_(torch.from_numpy(np.array(kept, np.float32)))
    model.eval()
    return model


def packed_ladder(names: list[str], items: list[Item], *, device: torch.device) -> scores.Ladder:
    """Scores of every packed width on the same items."""
    rows = {}
    for name, bits in track(scores.candidates(names), description="answering"):
        texts = answers(packed_at(name, bits).to(device), items)
        rows[width_name(name, bits)] = [grade(item, text) for item, text in zip(items, texts, strict=True)]
    return scores.ladder_of(rows, items)


def main() -> None:
    """Judge the checkpoints under a folder, or the packed stores, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="checkpoints, one folder a size")
    parser.add_argument("--packed", action="store_true", help="judge the packed stores: what each further bit wins")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--per-cell", type=int, default=20, help="items for every skill and difficulty")
    options = parser.parse_args()
    if options.folder is None and not options.packed:
        parser.error("name a folder of checkpoints, or say --packed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.packed:
        ladder = packed_ladder(options.sizes, drawn(options.per_cell), device=device)
        report.show_steps(ladder, console=Console())
        print(
            "  ".join(f"{name} {100 * mean:.2f}" for name, mean in zip(ladder.candidates, ladder.means(), strict=True))
        )
        print(f"\n{provenance()}")
        return
    models = {name: at_widths(load(options.folder / name).to(device)) for name in options.sizes}
    result = table(models, drawn(options.per_cell))
    (options.folder / "trial.json").write_text(json.dumps(result))
    show(result)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
