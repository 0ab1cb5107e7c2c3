"""Perplexity and accuracy of every width through vLLM on a GPU, beside the numpy engine's on the same items.

    python -m benchmarks.quality --out DIR [--model medium] [--items 300] [--rank 16]

With the model's full-precision checkpoint at hand, the narrowest width is also served with an EoRA adapter, a LoRA of
the same engine. Prints a line for every variant and writes DIR/quality.log, the server's log.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backends.anyprec.compensate import compensate, write_adapter
from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.names import WIDTH_KEY
from backends.anyprec.store import Store
from backends.family.packed import STORES
from benchmarks.anyprec import FULL_FOLDER, Scores, calibration, held_out, scores
from benchmarks.gpu import GRAPHS, post, served
from evaluation.skills import Item, grade
from research.provenance import provenance
from research.tokens import encode_answer, encode_chat

ADAPTER = "eora"


def asked(item: Item, variant: Variant) -> str:
    """A greedy answer, at most 8 tokens longer than the right one."""
    body: dict[str, Any] = {"model": variant.adapter or "m", "messages": [{"role": "user", "content": item.prompt}]}
    body |= {"temperature": 0, "max_tokens": len(encode_answer(item.answer)) + 8}
    answer = post("/v1/chat/completions", body | {"vllm_xargs": {WIDTH_KEY: variant.bits}})
    return str(answer["choices"][0]["message"]["content"])


def losses(item: Item, variant: Variant) -> tuple[list[float], list[float]]:
    """Negative log-probabilities of every token of a chat but the first, and of its answer's."""
    head, tail = encode_chat(item.prompt), encode_answer(item.answer)
    body = {"model": variant.adapter or "m", "prompt": head + tail, "max_tokens": 1, "prompt_logprobs": 0}
    answer = post("/v1/completions", body | {"vllm_xargs": {WIDTH_KEY: variant.bits}})
    listed = answer["choices"][0]["prompt_logprobs"][1:]
    every = [-entry[str(token)]["logprob"] for entry, token in zip(listed, (head + tail)[1:], strict=True)]
    return every, every[len(head) - 1 :]


def through_vllm(items: Sequence[Item], variant: Variant) -> Scores:
    """The scores of a running server."""
    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(lambda item: asked(item, variant), items))
        every, answers = zip(*pool.map(lambda item: losses(item, variant), items), strict=True)
    right = [grade(item, text) for item, text in zip(items, texts, strict=True)]
    text, loss = (float(np.concatenate(each).mean()) for each in (every, answers))
    return Scores(text, loss, 100 * float(np.mean(right)))


@contextmanager
def compensated(store: Store, name: str, *, rank: int, calibrating: int) -> Iterator[Path | None]:
    """The folder of an adapter for the narrowest width, None without the checkpoint it is made from."""
    if not (FULL_FOLDER / name).is_dir():
        yield None
        return
    found = compensate(store, FULL_FOLDER / name, calibration(calibrating), bits=min(store.bits), rank=rank)
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(found, Path(folder) / ADAPTER, base=name)
        yield Path(folder) / ADAPTER


def show(variant: Variant, vllm: Scores, ours: Scores) -> None:
    """One line: vLLM's figures, the numpy engine's in brackets."""
    name = f"{variant.bits} bits" + (f" + {variant.adapter}" if variant.adapter else "")
    perplexities = f"{np.exp(vllm.text):.4f} ({np.exp(ours.text):.4f}) of the text, "
    perplexities += f"{np.exp(vllm.loss):.4f} ({np.exp(ours.loss):.4f}) of the answers"
    print(f"{name:14} perplexity {perplexities}; {vllm.accuracy:5.1f} % ({ours.accuracy:5.1f} %) right", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="medium", choices=list(STORES))
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--calibrating", type=int, default=256, help="training items for the adapter")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store, items = Store.open(STORES[options.model]), held_out(options.items)
    with compensated(store, options.model, rank=options.rank, calibrating=options.calibrating) as adapter:
        variants = [Variant(bits) for bits in store.bits]
        lora: list[str] = []
        if adapter is not None:
            variants.insert(1, Variant(min(store.bits), ADAPTER))
            lora = ["--enable-lora", "--max-lora-rank", str(options.rank), "--lora-modules", f"{ADAPTER}={adapter}"]
        adapters = [read_adapter(adapter, store)] if adapter is not None else []
        model, tokenizer = Llama(Weights(store, adapters)), Tokenizer(store.folder)
        memory = ["--max-model-len", "512", "--gpu-memory-utilization", "0.3"]
        with served(store.folder, options.out / "quality.log", "--compilation-config", GRAPHS, *memory, *lora):
            for variant in variants:
                show(variant, through_vllm(items, variant), scores(model, tokenizer, items, variant))
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
