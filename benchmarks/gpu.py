"""Serves random weights with vLLM on a GPU: bfloat16, Machete's int4, FP8, INT8, and one store at many widths.

    python -m benchmarks.gpu --out DIR [--model llama-3.1-8b] [--only bf16 store]       about 100 s an engine

Every engine gets single requests, 48 and 256 at once, and 48 prompts of 512 tokens. The store also gets mixed widths,
whose texts are compared with the same requests alone. It gets the same as least widths ("floor"), too. With `--starts`
engines only start. Prints a line for each and writes DIR/gpu-MODEL.json and the logs.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backends.anyprec.names import FLOOR_KEY, WIDTH_KEY
from benchmarks.random_store import SHAPES, write_tokenizer
from research.provenance import provenance

PORT = 8131
BASE = f"http://127.0.0.1:{PORT}"
BITS = [3, 4, 6, 8]
GRAPHS = '{"mode":0,"cudagraph_mode":"FULL_DECODE_ONLY","cudagraph_capture_sizes":[1,8,16,32,64,128,256]}'
OPTIONS = ["--load-format", "dummy", "--max-num-seqs", "256", "--max-model-len", "1024", "--no-enable-prefix-caching"]
OPTIONS += ["--max-num-batched-tokens", "4096", "--gpu-memory-utilization", "0.5", "--compilation-config", GRAPHS]
Extra = dict[str, Any]  # a request's vllm_xargs
MIXED = [{WIDTH_KEY: k} for k in BITS]
LINES = {
    "3": [{WIDTH_KEY: 3}], "4": [{WIDTH_KEY: 4}], "8": [{WIDTH_KEY: 8}], "mixed": MIXED,
    "floor": [{**each, FLOOR_KEY: True} for each in MIXED],
}  # fmt: skip


def _compressed(name: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    """A quantization_config of compressed-tensors."""
    scheme = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}}
    return {
        "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed",
        "ignore": ["lm_head"], "kv_cache_scheme": None,
        "config_groups": {"group_0": scheme | {"input_activations": activations}},
    }  # fmt: skip


_CHANNELS = {"num_bits": 8, "strategy": "channel"}
_TOKENS = {"num_bits": 8, "symmetric": True, "dynamic": True, "strategy": "token"}
ENGINES: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "store": {
        "quant_method": "anyprec", "version": 1, "bits": BITS, "rows_per_table": 1, "in_features": {}, "checksums": {},
    },
    "int4": _compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}, None),
    "fp8": _compressed("float-quantized", _CHANNELS | {"type": "float"}, _TOKENS | {"type": "float"}),
    "int8": _compressed("int-quantized", _CHANNELS | {"type": "int"}, _TOKENS | {"type": "int"}),
}  # fmt: skip


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
    command += ["--port", str(PORT), "--host", "127.0.0.1", *options]
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


def body(i: int, tokens: int, extra: Extra, *, prompt: int, **more: Any) -> dict[str, Any]:
    """A greedy completion of a random prompt of so many tokens that depends on i."""
    words = np.random.default_rng(1_000_003 * prompt + i).integers(0, 250, prompt).tolist()
    asked = {"model": "m", "prompt": words, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}
    return asked | ({"vllm_xargs": extra} if extra else {})


def complete(i: int, tokens: int, extra: Extra, *, prompt: int = 32, **more: Any) -> dict[str, Any]:
    """One answer."""
    return post("/v1/completions", body(i, tokens, extra, prompt=prompt, **more))


def single_tokens_per_s(extra: Extra) -> float:
    """Decode speed of one request alone."""
    complete(0, 8, extra)
    start = time.time()
    complete(0, 192, extra)
    return 192 / (time.time() - start)


def crowd_tokens_per_s(count: int, asked: Sequence[Extra], tokens: int = 192) -> float:
    """Tokens a second of many requests at once."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda i: complete(i, 4, asked[i % len(asked)]), range(count)))
        start = time.time()
        list(pool.map(lambda i: complete(i, tokens, asked[i % len(asked)]), range(count)))
    return count * tokens / (time.time() - start)


def first_token_ms(count: int, asked: Sequence[Extra], salt: int) -> list[int]:
    """Median and 95th percentile of the time to the first token of so many prompts of 512 tokens at once."""

    def ask(i: int) -> float:
        said = body(i + salt, 32, asked[i % len(asked)], prompt=512, stream=True)
        request = urllib.request.Request(
            BASE + "/v1/completions", json.dumps(said).encode(), {"content-type": "application/json"}
        )
        start, first = time.time(), 0.0
        for line in urllib.request.urlopen(request, timeout=120):
            if line.startswith(b"data:") and not first:
                first = time.time() - start
        return first * 1000

    with ThreadPoolExecutor(count) as pool:
        times = list(pool.map(ask, range(count)))
    return [round(float(np.percentile(times, q))) for q in (50, 95)]


def mixed_against_solo() -> dict[str, Any]:
    """48 requests at mixed widths against the same alone: equal texts, and the largest gap of the first token."""

    def steps(i: int) -> tuple[list[str], list[float]]:
        found = complete(i, 16, MIXED[i % len(MIXED)], logprobs=0)["choices"][0]["logprobs"]
        return found["tokens"], found["token_logprobs"]

    with ThreadPoolExecutor(48) as pool:
        crowd = list(pool.map(steps, range(48)))
    solo = [steps(i) for i in range(48)]
    gaps = [abs(a[1][0] - b[1][0]) for a, b in zip(crowd, solo, strict=True) if a[0][0] == b[0][0]]
    return {"same_text": sum(a[0] == b[0] for a, b in zip(crowd, solo, strict=True)), "first_step_gap": max(gaps)}


def loaded_gib(log: Path) -> float | None:
    """Memory of the weights as vLLM's log states it."""
    found = re.search(r"Model loading took ([\d.]+) GiB", log.read_text())
    return float(found[1]) if found else None


def speeds(asked: Sequence[Extra], salt: int, crowds: Sequence[int]) -> dict[str, Any]:
    """One line of the table."""
    found: dict[str, Any] = {"1": round(single_tokens_per_s(asked[0]))} if len(asked) == 1 else {}
    found |= {str(count): round(crowd_tokens_per_s(count, asked)) for count in crowds}
    return found | {"first_token_ms": first_token_ms(48, asked, salt)}


def rows_served() -> dict[str, float]:
    """Rows so far by the width asked for and that served, as /metrics says them."""
    text = urllib.request.urlopen(BASE + "/metrics", timeout=30).read().decode()
    found = re.findall(r'^anyprec_rows_total\{asked="([^"]+)",served="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {f"{asked} at {served}": float(rows) for asked, served, rows in found}


def measure(name: str, folder: Path, out: Path, options: Sequence[str], crowds: Sequence[int] | None) -> dict[str, Any]:
    """Start a server and measure it, or only start it without crowds; a failure is part of the result."""
    log, found = out / f"{folder.name}.log", dict[str, Any](name=name, made=provenance())
    try:
        with served(folder, log, *OPTIONS, *options) as startup_s:
            found |= {"startup_s": round(startup_s, 1), "weights_gib": loaded_gib(log)}
            lines = {} if crowds is None else LINES if name == "store" else {"-": [{}]}
            for i, (label, asked) in enumerate(lines.items()):
                before = rows_served() if label == "floor" else {}
                found[label] = speeds(asked, 1000 * i, crowds or [])
                if label == "floor":
                    found["rows_served"] = {key: rows - before.get(key, 0) for key, rows in rows_served().items()}
                print(name, label, json.dumps(found[label]), flush=True)
            if name == "store" and lines:
                found["mixed_against_solo"] = mixed_against_solo()
    except Exception as error:
        lines_of = log.read_text().splitlines() if log.exists() else []
        found["failed"] = repr(error)[:300]
        found["log"] = [line[-220:] for line in lines_of if re.search(r"Error|File .*anyprec", line)][-14:]
    print(json.dumps({key: value for key, value in found.items() if key not in ("3", "4", "8")}), flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/pointsman-gpu"))
    parser.add_argument("--only", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--crowds", nargs="*", type=int, default=[48, 256], help="how many requests at once")
    parser.add_argument("--starts", action="store_true", help="only how long each takes to start")
    parser.add_argument("--options", nargs="*", default=[], help="passed to vllm serve, without their dashes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in arguments.only:
        folder = arguments.folder / f"{arguments.model}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder)
        quantization = {"quantization_config": ENGINES[name]} if ENGINES[name] else {}
        (folder / "config.json").write_text(json.dumps(SHAPES[arguments.model].config() | quantization))
        options = [f"--{option}" for option in arguments.options]
        crowds = None if arguments.starts else arguments.crowds
        found.append(measure(name, folder, arguments.out, options, crowds))
        (arguments.out / f"gpu-{arguments.model}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
