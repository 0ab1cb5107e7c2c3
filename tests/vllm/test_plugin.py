"""One engine, one copy of the weights, each request its own width: what the plugin promises, on real vLLM."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.service import Loaded
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.store import Store
from evaluation.skills import Item, grade, sample
from research import ladder
from research.tokens import encode_answer
from tests.vllm.engines import Engine, bits_of

PROMPTS = ("<|user|>What is 17 + 25?<|end|><|assistant|>", "<|user|>Sort: pear, apple, fig<|end|><|assistant|>")
TEXT = list(b"The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and the list [3, 1, 2] sorted is [1, 2, 3].")
Steps = tuple[list[str], list[float]]


def steps(engine: Engine, prompt: str | Sequence[int], bits: float, *, floor: bool | None = None, **more: Any) -> Steps:
    """Greedy tokens and their log-probabilities."""
    body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 0, **more}
    said = {"anyprec_bits": bits} | ({} if floor is None else {"anyprec_floor": floor})
    answer = engine.post("/v1/completions", {**body, "vllm_xargs": said})
    assert answer.status_code == 200, answer.text
    found = answer.json()["choices"][0]["logprobs"]
    return found["tokens"], found["token_logprobs"]


def of_prompt(engine: Engine, tokens: Sequence[int], bits: float) -> list[float]:
    """Log-probability of every token after the first."""
    body = {"prompt": list(tokens), "max_tokens": 1, "prompt_logprobs": 0, "vllm_xargs": {"anyprec_bits": bits}}
    listed = engine.post("/v1/completions", body).json()["choices"][0]["prompt_logprobs"][1:]
    return [entry[str(token)]["logprob"] for entry, token in zip(listed, tokens[1:], strict=True)]


def test_48_requests_at_three_widths_in_one_batch_give_exactly_the_solo_runs_log_probabilities(large: Engine) -> None:
    generator = random.Random()
    letters = "abcdefgh ijklmnop"
    jobs = [("".join(generator.choices(letters, k=10 + i)), (3, 4, 8)[i % 3]) for i in range(48)]
    before = large.metric("vllm:iteration_tokens_total_count")
    with ThreadPoolExecutor(len(jobs)) as pool:
        crowd = list(pool.map(lambda job: steps(large, *job, cache_salt="crowd", max_tokens=32), jobs))
    batches = large.metric("vllm:iteration_tokens_total_count") - before
    solo = [steps(large, *job, cache_salt="solo", max_tokens=32) for job in jobs]
    assert crowd == solo
    assert len(jobs) * 32 / batches > 6  # rows of a batch: they did run together


def rows_served(engine: Engine) -> dict[tuple[str, str], float]:
    """Rows by the width asked for and that served, as /metrics says them."""
    text = httpx.get(f"{engine.url}/metrics", timeout=60).text
    found = re.findall(r'^anyprec_rows_total\{asked="([^"]+)",served="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {(asked, served): float(rows) for asked, served, rows in found}


def test_a_width_that_is_the_least_is_served_wider_in_a_crowd_and_metrics_say_by_which(large: Engine) -> None:
    generator, letters = random.Random(), "abcdefgh ijklmnop"
    jobs = [("".join(generator.choices(letters, k=10 + i)), 3, i % 4 == 0) for i in range(24)]
    jobs += [(prompt, 8, False) for prompt, _, _ in jobs]

    def ask(salt: str, prompt: str, bits: int, floor: bool) -> Steps:
        return steps(large, prompt, bits, floor=floor, cache_salt=salt, max_tokens=32)

    before = rows_served(large)
    with ThreadPoolExecutor(len(jobs)) as pool:
        crowd = list(pool.map(lambda job: ask("crowd", *job), jobs))
    after = rows_served(large)
    rows = {pair: after[pair] - before.get(pair, 0) for pair in after if after[pair] > before.get(pair, 0)}
    assert set(rows) <= {("3", "3"), ("3", "8"), ("8", "8")}
    assert rows["3", "8"] > 0
    solo = [ask("solo", *job) for job in jobs]
    exact = [i for i, (_, _, floor) in enumerate(jobs) if not floor]
    assert [crowd[i] for i in exact] == [solo[i] for i in exact]
    assert crowd != solo
    assert solo[0] == steps(large, jobs[0][0], 3, cache_salt="exact", max_tokens=32)  # alone, nothing is wider


@pytest.mark.parametrize("floor", ["yes", 2, 0.5])
def test_a_floor_that_is_no_boolean_is_a_400(large: Engine, floor: object) -> None:
    answer = large.post("/v1/completions", {"prompt": "a", "vllm_xargs": {"anyprec_bits": 3, "anyprec_floor": floor}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "anyprec_floor"


def test_what_a_crowd_left_in_the_cache_at_wider_widths_is_not_read_by_an_exact_width(large: Engine) -> None:
    prompt = "".join(random.Random().choices("abcdefgh ", k=400))
    steps(large, prompt, 3, floor=True)
    hits = large.metric("vllm:prefix_cache_hits_total")
    steps(large, prompt, 3)
    assert large.metric("vllm:prefix_cache_hits_total") == hits


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_perplexity_of_a_width_equals_the_numpy_engines(small: Engine, bits: int) -> None:
    model = Llama(Weights(Store.open(small.store)))
    ours = model.log_probabilities(TEXT, Variant(bits)).mean()
    assert np.mean(of_prompt(small, TEXT, bits)) == pytest.approx(ours, abs=2e-3)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("bits", [3, 6])
def test_an_answer_is_as_likely_to_the_numpy_engine_as_to_vllm(small: Engine, bits: int, prompt: str) -> None:
    tokens = small.post("/tokenize", {"prompt": prompt, "add_special_tokens": False}).json()["tokens"]
    body = {"prompt": tokens, "max_tokens": 128, "temperature": 1, "seed": 3, "ignore_eos": True}
    body |= {"logprobs": 0, "return_token_ids": True}
    answer = small.post("/v1/completions", {**body, "vllm_xargs": {"anyprec_bits": bits}}).json()["choices"][0]
    whole, model = tokens + answer["token_ids"], Llama(Weights(Store.open(small.store)))
    ours, others = (model.log_probabilities(whole, Variant(each))[len(tokens) - 1 :] for each in (bits, 9 - bits))
    assert answer["logprobs"]["token_logprobs"] == pytest.approx(ours.tolist(), abs=5e-3)
    assert np.abs(ours - others).mean() > 0.05  # or any width would do


def answers(engine: Engine, items: Sequence[Item], bits: int) -> list[str]:
    """Greedy answers, at most 8 tokens longer than the right ones, as the numpy engine is asked for them."""

    def ask(item: Item) -> str:
        said = {"messages": [{"role": "user", "content": item.prompt}], "temperature": 0}
        said |= {"max_tokens": len(encode_answer(item.answer)) + 8, "vllm_xargs": {"anyprec_bits": bits}}
        text: str = engine.post("/v1/chat/completions", said).json()["choices"][0]["message"]["content"]
        return text

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(ask, items))


def test_accuracy_on_the_skills_equals_the_numpy_engines_at_every_width(small: Engine) -> None:
    items = sample(240, rng=np.random.default_rng(), split="test")
    loaded, means = Loaded("small", small.store), {}
    for bits in bits_of(small.store):
        texts = ladder.answer(loaded, items, bits=bits), answers(small, items, bits)
        scores = [np.mean([grade(item, text) for item, text in zip(items, each, strict=True)]) for each in texts]
        assert scores[0] == pytest.approx(scores[1], abs=0.01)  # two of 240 may stand on a tie of two tokens
        assert np.mean([ours == theirs for ours, theirs in zip(*texts, strict=True)]) >= 0.98
        means[bits] = scores[1]
    assert means[6] - means[3] > 0.1  # or any width would do


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bits", [2, 9, 0, -3, "3", 3.5])
def test_a_width_out_of_range_is_a_400_before_the_first_byte(large: Engine, bits: object, stream: bool) -> None:
    said = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": stream}
    answer = large.post("/v1/chat/completions", {**said, "vllm_xargs": {"anyprec_bits": bits}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "anyprec_bits"


def test_the_engine_still_serves_after_bad_widths(large: Engine) -> None:
    before = steps(large, "abc", 4)
    for bits in (9, 1, 100):
        large.post("/v1/completions", {"prompt": "abc", "vllm_xargs": {"anyprec_bits": bits}})
    assert steps(large, "abc", 4) == before


def test_without_a_width_a_request_gets_the_widest(large: Engine) -> None:
    body = {"prompt": "abc", "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    found = large.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    assert (found["tokens"], found["token_logprobs"]) == steps(large, "abc", max(bits_of(large.store)))


def test_widths_never_share_cached_prefixes(large: Engine) -> None:
    prompt = "".join(random.Random().choices("abcdefgh ", k=400))
    hits = lambda: large.metric("vllm:prefix_cache_hits_total")  # noqa: E731  # one expression, used three times
    steps(large, prompt, 3)
    before = hits()
    after_three = steps(large, prompt, 8)
    assert hits() == before
    steps(large, prompt, 3)
    assert hits() > before
    assert after_three == steps(large, prompt, 8, cache_salt="never seen before")


def test_widths_are_listed_on_the_models_card(large: Engine) -> None:
    cards = httpx.get(f"{large.url}/v1/models").json()["data"]
    assert {card["id"]: card.get("anyprec_bits") for card in cards}["large"] == bits_of(large.store)


def write_adapter(folder: Path, store: Store, *, bits: int, rank: int = 4) -> None:
    """A random low-rank adapter of every linear layer, in PEFT's format."""
    folder.mkdir(parents=True)
    rng, tensors = np.random.default_rng(), {}
    for layer in store.layers:
        rows, columns = store.shape(layer)
        for name, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            factor = rng.standard_normal(shape, np.float32) * 0.7 * shape[1] ** -0.5 / rank**0.25
            tensors[f"base_model.model.{layer}.lora_{name}.weight"] = factor.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt", "anyprec_bits": str(bits)})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "task_type": "CAUSAL_LM"}
    config["target_modules"] = sorted({layer.rpartition(".")[2] for layer in store.layers})
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_composes_with_a_width(large: Engine, tmp_path: Path) -> None:
    store = Store.open(large.store)
    write_adapter(tmp_path / "mended", store, bits=3)
    loaded = large.post("/v1/load_lora_adapter", {"lora_name": "mended", "lora_path": str(tmp_path / "mended")})
    assert loaded.status_code == 200, loaded.text
    asked = {"prompt": TEXT[:40], "max_tokens": 256, "temperature": 1, "seed": 5, "ignore_eos": True}
    asked |= {"model": "mended", "vllm_xargs": {"anyprec_bits": 3}, "logprobs": 0, "return_token_ids": True}
    answer = large.post("/v1/completions", asked).json()["choices"][0]  # sampled: greedy tokens are too certain to tell
    whole = TEXT[:40] + answer["token_ids"]
    model = Llama(Weights(store, [read_adapter(tmp_path / "mended", store)]))
    mended = model.log_probabilities(whole, Variant(3, "mended"))[39:]
    bare = model.log_probabilities(whole, Variant(3))[39:]
    gap = np.abs(np.array(answer["logprobs"]["token_logprobs"]) - mended).mean()
    assert gap < 0.05  # bfloat16 against float32
    assert np.abs(bare - mended).mean() > 5 * gap
    large.post("/v1/unload_lora_adapter", {"lora_name": "mended"})
