"""Serves random models of Qwen2.5-1.5B's shapes with vLLM on a GPU: bfloat16, then one store at many widths.

    python -m benchmarks.gpu --out DIR [--store STORE --plain CHECKPOINT] [--only plain|eager|graphs]

Each server gets single requests (decode speed), 48 at once (throughput), and, with a store, 48 at mixed widths that are
compared with the same requests alone. Prints one line a measurement and writes DIR/gpu.json and the servers' logs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from backends.anyprec.names import WIDTH_KEY
from benchmarks.random_store import SHAPES, StoreShape, write_store, write_tokenizer

PORT = 8131
BASE = f"http://127.0.0.1:{PORT}"
BITS = [3, 4, 6, 8]
GRAPHS = '{"mode":0,"cudagraph_mode":"FULL_DECODE_ONLY","cudagraph_capture_sizes":[1,8,16,64]}'


def write_plain(folder: Path, shape: StoreShape, *, seed: int = 0) -> None:
    """A checkpoint of random bfloat16-able weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}

    def normal(name: str, size: tuple[int, ...], scale: float) -> None:
        tensors[name] = (generator.standard_normal(size, np.float32) * scale).astype(np.float16)

    normal("model.embed_tokens.weight", (shape.vocabulary, shape.hidden), shape.hidden**-0.5 * 4)
    tensors["model.norm.weight"] = np.ones(shape.hidden, np.float16)
    for i in range(shape.layers):
        for name, size in shape.linears().items():
            normal(f"model.layers.{i}.{name}.weight", size, size[1] ** -0.5)
            if shape.bias and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                normal(f"model.layers.{i}.{name}.bias", size[:1], 1.0)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{norm}.weight"] = np.ones(shape.hidden, np.float16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(shape.config()))


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A JSON request to the server; an HTTP error as a dictionary."""
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        answer: dict[str, Any] = json.load(urllib.request.urlopen(request, timeout=180))
    except urllib.error.HTTPError as error:
        return {"http": error.code, "body": error.read().decode()[:300]}
    return answer


@contextmanager
def served(model: Path, log: Path, *options: str, limit_s: float = 200) -> Iterator[float]:
    """A running `vllm serve`; yields the seconds it took to come up. Raises: RuntimeError when it does not."""
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--served-model-name", "m"]
    command += ["--port", str(PORT), "--host", "127.0.0.1", "--max-model-len", "512", "--max-num-seqs", "64"]
    command += ["--gpu-memory-utilization", "0.3", "--dtype", "bfloat16", "--max-num-batched-tokens", "2048", *options]
    start = time.time()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while not _healthy():
                if process.poll() is not None or time.time() - start > limit_s:
                    raise RuntimeError(f"{model} did not come up in {time.time() - start:.0f} s")
                time.sleep(0.5)
            yield time.time() - start
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _healthy() -> bool:
    try:
        return bool(urllib.request.urlopen(BASE + "/health", timeout=5).status == 200)
    except OSError:
        return False


def complete(i: int, tokens: int, width: int | None, **more: Any) -> dict[str, Any]:
    """One greedy completion of a prompt that depends on i."""
    body = {
        "model": "m",
        "prompt": f"{i}: import os\n" * 4,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }
    if width is not None:
        body["vllm_xargs"] = {WIDTH_KEY: width}
    return post("/v1/completions", body)


def single_tokens_per_s(width: int | None) -> float:
    """Decode speed of one request alone, its prompt already cached."""
    complete(0, 8, width)
    start = time.time()
    answer = complete(0, 256, width)
    return float(answer["usage"]["completion_tokens"] / (time.time() - start))


def crowd_tokens_per_s(widths: list[int | None], tokens: int = 256) -> float:
    """Tokens a second of 48 requests at once."""
    with ThreadPoolExecutor(48) as pool:
        list(pool.map(lambda i: complete(i, 4, widths[i % len(widths)]), range(48)))
        start = time.time()
        list(pool.map(lambda i: complete(i, tokens, widths[i % len(widths)]), range(48)))
    return 48 * tokens / (time.time() - start)


def _first_steps(i: int, width: int) -> tuple[list[str], list[float]]:
    found = complete(i, 16, width, logprobs=0)["choices"][0]["logprobs"]
    return found["tokens"], found["token_logprobs"]


def mixed_against_solo(bits: list[int]) -> dict[str, Any]:
    """48 requests at mixed widths against the same alone: equal texts, and the largest gap while they agree."""
    jobs = [(i, bits[i % len(bits)]) for i in range(48)]
    with ThreadPoolExecutor(48) as pool:
        crowd = list(pool.map(lambda job: _first_steps(*job), jobs))
    solo = [_first_steps(*job) for job in jobs]
    gaps = [
        abs(a - b)
        for (tokens, crowd_logs), (alone, solo_logs) in zip(crowd, solo, strict=True)
        for a, b in zip(crowd_logs[:1], solo_logs[:1], strict=True)
        if tokens[0] == alone[0]
    ]
    return {"same_text": sum(a[0] == b[0] for a, b in zip(crowd, solo, strict=True)), "first_step_gap": max(gaps)}


def loaded_gib(log: Path) -> float | None:
    """Memory of the weights as vLLM's log states it."""
    found = re.search(r"Model loading took ([\d.]+) GiB", log.read_text())
    return float(found[1]) if found else None


def measure(name: str, model: Path, out: Path, widths: list[int], *options: str) -> dict[str, Any]:
    """Start a server and measure it; a failure is part of the result."""
    log = out / f"{name}.log"
    found: dict[str, Any] = {"name": name}
    try:
        with served(model, log, *options) as startup_s:
            found["startup_s"] = round(startup_s, 1)
            found["weights_gib"] = loaded_gib(log)
            found["text"] = complete(0, 8, None)["choices"][0]["text"]
            each: list[int | None] = list(widths) or [None]
            found["single"] = {str(k): round(single_tokens_per_s(k), 1) for k in each}
            found["crowd"] = {str(k): round(crowd_tokens_per_s([k])) for k in each}
            if widths:
                found["crowd"]["mixed"] = round(crowd_tokens_per_s(each))
                found["mixed_against_solo"] = mixed_against_solo(widths)
                found["bad_width"] = complete(0, 4, 9)
                found["after_bad_width"] = complete(0, 4, widths[0])["choices"][0]["text"]
    except Exception as error:
        found["failed"] = repr(error)[:300]
        lines = log.read_text().splitlines() if log.exists() else []
        wanted = [line[-220:] for line in lines if re.search(r"Error|error:|File .*anyprec|assert", line)]
        found["log"] = wanted[-14:]
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--prepare", action="store_true", help="only write the models")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/pointsman-gpu"))
    parser.add_argument("--store", type=Path, help="a store to serve instead of a random one")
    parser.add_argument("--plain", type=Path, help="its uncompressed checkpoint")
    parser.add_argument("--only", nargs="*", choices=["plain", "eager", "graphs"], default=["plain", "eager", "graphs"])
    parser.add_argument("--options", nargs="*", default=[], help="passed to vllm serve, without their dashes")
    arguments = parser.parse_args()
    plain = arguments.plain or arguments.folder / "plain"
    store = arguments.store or arguments.folder / "store"
    if not plain.exists():
        write_plain(plain, SHAPES[arguments.model])
    if not store.exists():
        write_store(store, SHAPES[arguments.model], bits=BITS)
    if arguments.prepare:
        return
    bits = json.loads((store / "config.json").read_text())["quantization_config"]["bits"]
    more = [f"--{option}" for option in arguments.options]
    runs: dict[str, tuple[Path, list[int], *tuple[str, ...]]] = {
        "plain": (plain, [], "--compilation-config", GRAPHS),
        "eager": (store, bits, "--enforce-eager"),
        "graphs": (store, bits, "--compilation-config", GRAPHS),
    }
    found = []
    for name in arguments.only:
        model, widths, *options = runs[name]
        found.append(measure(name, model, arguments.out, widths, *options, *more))
    (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
