"""What nesting, widths and compensation cost and win: `python -m benchmarks.anyprec [nesting|widths|compensation]`.

nesting       weighted squared error of nested codes over that of optimal k-means free of nesting, at every width
widths        bytes, perplexity and accuracy of one of the family's stores at every width, beside full precision
compensation  the same with an EoRA adapter at the narrowest width, and output errors beside plain SVD
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.anyprec import nested_kmeans as nesting
from backends.anyprec.adapter_budget import adapter_bytes, within_bytes
from backends.anyprec.compensate import Compensation, compensate, write_adapter
from backends.anyprec.dp_numba import Sums
from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.sampling import Sampling
from backends.anyprec.engine.scheduler import Job, Scheduler, complete
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.store import Store
from backends.family.packed import STORES
from benchmarks.dp_numpy import free_cuts, split
from benchmarks.full_precision import FULL, full_precision
from evaluation.skills import SKILLS, Item, grade, sample
from research.provenance import provenance
from research.tokens import END, encode_answer, encode_chat

BITS = (3, 4, 5, 6, 7, 8)
Rows = Callable[[np.random.Generator, int], NDArray[np.float64]]
FULL_FOLDER = Path("backends/family/full")


def even(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Sensitivities that are all the same."""
    return np.ones(size)


def chi_squared(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Sensitivities as squared gradients would be."""
    return rng.chisquare(1, size)


WEIGHTS_DRAWN: dict[str, Rows] = {
    "Gaussian": lambda rng, size: rng.normal(size=size),
    "Student t, 5": lambda rng, size: rng.standard_t(5, size),
}
SENSITIVITIES: dict[str, Rows] = {"even": even, "chi²": chi_squared}


def greedy_error(sums: Sums) -> list[float]:
    """Error at every width of the best seed whose cells are each split as well as can be, width after width."""
    cuts = free_cuts(sums, 2 ** BITS[0])
    errors = [float(nesting.costs(sums, cuts[:-1], cuts[1:]).sum())]
    for _ in BITS[1:]:
        pairs = itertools.pairwise(cuts)
        cuts = np.array([0, *(at for a, b in pairs for at in (split(sums, int(a), int(b))[1], int(b)))])
        errors.append(float(nesting.costs(sums, cuts[:-1], cuts[1:]).sum()))
    return errors


def nesting_table(*, rows: int, sizes: Sequence[int], balanced_on: int = 16) -> None:
    """Print errors over those of free k-means, summed over rows, and the time of a row."""
    print(f"weighted squared error / that of optimal free k-means, {rows} rows of each kind")
    print(f"{'weights':13} {'sensitivity':11} {'K':>5}  way       " + "".join(f"{k:>7}" for k in BITS))
    for size in sizes:
        for name, draw in WEIGHTS_DRAWN.items():
            for kind, sensitivity in SENSITIVITIES.items():
                rng = np.random.default_rng(0)
                pairs = [(draw(rng, size), sensitivity(rng, size)) for _ in range(rows)]
                drawn = [nesting.sort_row(*pair)[2] for pair in pairs]
                ours, weighing, width_weights = _together(drawn, balanced_on)
                nesting_s = _seconds(pairs, width_weights)
                free = sum(nesting.free_errors(sums, BITS) for sums in drawn)
                for way, errors in (("together", ours), ("greedily", np.sum([*map(greedy_error, drawn)], axis=0))):
                    ratios = "".join(f"{ratio:7.3f}" for ratio in errors / free)
                    timed = (
                        f"   {1000 * nesting_s / rows:.1f} ms a row after {weighing:.1f} s" if way == "together" else ""
                    )
                    print(f"{name:13} {kind:11} {size:5}  {way:9} {ratios}{timed}", flush=True)


def _seconds(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], width_weights: NDArray[np.float64]
) -> float:
    """The processor's, to nest all rows in one call."""
    weights, sensitivities = (np.array(each) for each in zip(*pairs, strict=True))
    nesting.nest_rows(weights[:1], sensitivities[:1], bits=BITS, width_weights=width_weights)  # compiles
    started = time.process_time()
    nesting.nest_rows(weights, sensitivities, bits=BITS, width_weights=width_weights)
    return time.process_time() - started


def _together(rows: Sequence[Sums], balanced_on: int) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Errors at BITS, summed, as `quantize` nests; the processor's seconds to weigh the widths, and their weights."""
    started = time.process_time()
    width_weights = nesting.balance(rows[:: -(-len(rows) // balanced_on)], bits=BITS)
    weighed = time.process_time()
    cuts = [nesting.nested_cuts(nesting.Row.of(sums), width_weights, bits=BITS) for sums in rows]
    errors = sum(nesting.errors_at(sums, at, len(BITS)) for sums, at in zip(rows, cuts, strict=True))
    return np.asarray(errors)[::-1], weighed - started, width_weights


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model at one width on held-out items."""

    text: float  # mean negative log-likelihood of a token of question and answer, nats
    loss: float  # of a token of the answer
    accuracy: float  # percent


def held_out(items: int) -> list[Item]:
    """The same every time, evenly over skills and difficulties."""
    return sample(items, rng=np.random.default_rng(17), split="test")


def scores(model: Llama, tokenizer: Tokenizer, items: Sequence[Item], variant: Variant) -> Scores:
    """Loss of the right answers, and the share of greedy answers that are right."""
    every: list[NDArray[np.float64]] = []
    losses: list[NDArray[np.float64]] = []
    for item in items:
        head, tail = encode_chat(item.prompt), encode_answer(item.answer)
        every.append(-model.log_probabilities(head + tail, variant))
        losses.append(every[-1][len(head) - 1 :])
    texts = [""] * len(items)

    def job(place: int, item: Item) -> Job:
        def deliver(piece: object) -> None:
            texts[place] += piece.text  # type: ignore[attr-defined]

        sampling = Sampling(max_tokens=len(encode_answer(item.answer)) + 8, temperature=0.0)
        return Job(encode_chat(item.prompt), variant, sampling, 0, deliver, _raise)

    complete(Scheduler(model, tokenizer, eos=frozenset({END})), [job(*each) for each in enumerate(items)])
    grades = [grade(item, text) for item, text in zip(items, texts, strict=True)]
    text, loss = (float(np.concatenate(each).mean()) for each in (every, losses))
    return Scores(text, loss, 100 * float(np.mean(grades)))


def _raise(error: BaseException) -> None:
    raise error


def widths_table(name: str, *, items: int) -> None:
    """Print bytes, perplexity and accuracy at every width."""
    store, drawn = Store.open(STORES[name]), held_out(items)
    model, tokenizer = Llama(Weights(store)), Tokenizer(store.folder)
    on_disk = sum(file.stat().st_size for file in store.folder.glob("*.safetensors"))
    weights = sum(rows * columns for rows, columns in map(store.shape, store.layers))
    quantized = store.payload_bytes() - 2 * (model.shape.parameters() - weights)
    print(f"{name}: {on_disk:,} bytes on disk, {store.payload_bytes():,} by the formula without headers,")
    print(f"  {quantized / weights:.2f} bytes a quantized weight for all widths together; {len(drawn)} held-out items")
    for k in store.bits:
        _show(f"{k} bits", scores(model, tokenizer, drawn, Variant(k)))
    if (FULL_FOLDER / name).is_dir():
        _show("full precision", scores(Llama(full_precision(FULL_FOLDER / name)), tokenizer, drawn, FULL))


def _show(what: str, found: Scores) -> None:
    perplexities = f"{np.exp(found.text):.4f} of the text, {np.exp(found.loss):.4f} of the answers"
    print(f"  {what:16} perplexity {perplexities}; {found.accuracy:5.1f} % right", flush=True)


def calibration(count: int) -> list[list[int]]:
    """Training items as whole chats."""
    items = sample(count, rng=np.random.default_rng(3), split="train")
    return [encode_chat(item.prompt) + encode_answer(item.answer) for item in items]


def compensation_table(name: str, *, items: int, rank: int, calibrating: int) -> None:
    """Print what an adapter wins back of the loss and accuracy the narrowest width costs."""
    store, folder, drawn = Store.open(STORES[name]), FULL_FOLDER / name, held_out(items)
    tokenizer, bits = Tokenizer(store.folder), min(store.bits)
    texts = calibration(calibrating)
    found = compensate(store, folder, texts, bits=bits, rank=rank)
    _print_reports(found)
    most_bytes = adapter_bytes(found.factors) // 2
    half = replace(found, factors=within_bytes(store, found.factors, texts, bits=bits, most_bytes=most_bytes))
    with tempfile.TemporaryDirectory() as place:
        for what, kind in (("eora", found), ("half", half)):
            write_adapter(kind, Path(place) / what, base=name)
        adapters = [read_adapter(Path(place) / what, store) for what in ("eora", "half")]
        size = (Path(place) / "eora" / "adapter_model.safetensors").stat().st_size
    model = Llama(Weights(store, adapters))
    narrow = scores(model, tokenizer, drawn, Variant(bits))
    mended = scores(model, tokenizer, drawn, Variant(bits, "eora"))
    part = scores(model, tokenizer, drawn, Variant(bits, "half"))
    full = scores(Llama(full_precision(folder)), tokenizer, drawn, FULL)
    for what, each in (
        (f"{bits} bits", narrow),
        (f"+ rank {rank}", mended),
        (f"+ {len(half.factors)} layers", part),
        ("full precision", full),
    ):
        _show(what, each)
    loss = (narrow.loss - mended.loss) / (narrow.loss - full.loss)
    accuracy = (mended.accuracy - narrow.accuracy) / (full.accuracy - narrow.accuracy)
    print(f"  won back: {100 * loss:.0f} % of the loss, {100 * accuracy:.0f} % of the accuracy; adapter {size:,} bytes")


def _print_reports(found: Compensation) -> None:
    table = np.array([[each.uncompensated, each.plain_svd, each.compensated] for each in found.reports])
    better = int((table[:, 2] < table[:, 1]).sum())
    means = ", ".join(
        f"{what} {value:.4f}" for what, value in zip(("none", "SVD", "EoRA"), table.mean(axis=0), strict=True)
    )
    print(f"mean relative output error by layer: {means}; EoRA below SVD on {better} of {len(table)} layers")


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["nesting", "widths", "compensation"])
    parser.add_argument("--model", default="medium", choices=list(STORES))
    parser.add_argument("--items", type=int, default=3 * len(SKILLS) * 5)
    parser.add_argument("--rows", type=int, default=40, help="of every kind, for nesting")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--calibrating", type=int, default=256, help="training items for the adapter")
    options = parser.parse_args()
    if options.what in (None, "nesting"):
        nesting_table(rows=options.rows, sizes=(4096, 8192))
    if options.what in (None, "widths"):
        widths_table(options.model, items=options.items)
    if options.what in (None, "compensation"):
        compensation_table(options.model, items=options.items, rank=options.rank, calibrating=options.calibrating)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
