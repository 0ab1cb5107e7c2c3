"""From a checkpoint to a store: what is accepted, what is refused, and stopping half-way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from backends.anyprec.errors import Corrupt, NoRoom, Unsupported
from backends.anyprec.quantize import in_words, parse_bits, quantize, run
from backends.anyprec.store import Store
from backends.anyprec.tensors import TensorFolder
from tests.anyprec.llamas import config_of, write_llama


class Stopped(Exception):
    """Someone pulled the plug."""


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM"])
def test_llama_qwen2_and_mistral_are_accepted(tmp_path: Path, architecture: str) -> None:
    folder = write_llama(tmp_path / "in", architectures=[architecture], num_hidden_layers=1)
    report = quantize(folder, tmp_path / "out", bits=(3, 4), rows_per_table=8)
    store = Store.open(report.out)
    assert len(store.layers) == 7
    assert ("model.layers.0.self_attn.q_proj.bias" in store) == (architecture == "Qwen2ForCausalLM")


def test_an_untied_head_is_kept_and_a_tied_one_is_not_repeated(tmp_path: Path) -> None:
    untied = write_llama(tmp_path / "untied", tie_word_embeddings=False, num_hidden_layers=1)
    quantize(untied, tmp_path / "a", bits=(3,), rows_per_table=8)
    assert "lm_head.weight" in Store.open(tmp_path / "a")
    tied = write_llama(tmp_path / "tied", num_hidden_layers=1)
    quantize(tied, tmp_path / "b", bits=(3,), rows_per_table=8)
    assert "lm_head.weight" not in Store.open(tmp_path / "b")


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", architectures=["GPT2LMHeadModel"])
    with pytest.raises(Unsupported, match="GPT2LMHeadModel"):
        quantize(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", quantization_config={"quant_method": "gptq"})
    with pytest.raises(Unsupported, match="gptq"):
        quantize(folder, tmp_path / "out")


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in")
    config = config_of(num_hidden_layers=3)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Corrupt, match=r"layers\.2\."):
        quantize(folder, tmp_path / "out")


def test_rows_that_do_not_divide_into_tables_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="rows_per_table 7"):
        quantize(checkpoint, tmp_path / "out", rows_per_table=7)


def test_too_little_disk_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="1,000 free"):
        quantize(checkpoint, tmp_path / "out", free_bytes=lambda _: 1000)
    assert not any((tmp_path / "out").iterdir())


def test_a_stopped_run_continues_to_identical_bytes(checkpoint: Path, tmp_path: Path) -> None:
    def stop_in_the_second_layer(done: int, total: int, what: str) -> None:
        if what.startswith("model.layers.1.mlp"):
            raise Stopped

    with pytest.raises(Stopped):
        quantize(checkpoint, tmp_path / "resumed", rows_per_table=8, progress=stop_in_the_second_layer)
    with pytest.raises(Corrupt):
        Store.open(tmp_path / "resumed")  # half a store is not a store
    kept = (tmp_path / "resumed" / "model-00001-of-00003.safetensors").stat()
    quantize(checkpoint, tmp_path / "resumed", rows_per_table=8)
    quantize(checkpoint, tmp_path / "whole", rows_per_table=8)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    again = (tmp_path / "resumed" / "model-00001-of-00003.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


@pytest.mark.timeout(400)
def test_a_run_killed_outright_continues_to_identical_bytes(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", num_hidden_layers=3, hidden_size=64, intermediate_size=128)
    resumed, whole = tmp_path / "resumed", tmp_path / "whole"
    command = [sys.executable, "-m", "pointsman", "quantize", str(folder), "--rows-per-table", "32", "--out"]
    shard = resumed / "model-00001-of-00004.safetensors"
    with subprocess.Popen([*command, str(resumed)], stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not shard.exists():
            time.sleep(0.01)
        running.kill()
    assert running.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    first = shard.stat()
    subprocess.run([*command, str(resumed)], check=True, stderr=subprocess.DEVNULL)
    subprocess.run([*command, str(whole)], check=True, stderr=subprocess.DEVNULL)
    assert contents(resumed) == contents(whole)
    assert shard.stat().st_ino == first.st_ino


def test_a_truncated_shard_is_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(Corrupt, match="model-00002-of-00002"):
        quantize(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "3-9"], "widths go from 2 to 8"),
        (["--bits", "lots"], "expected 3-8 or 3,4,8"),
        (["--rows-per-table", "7"], "rows_per_table 7"),
    ],
)
def test_the_command_refuses_in_one_sentence(checkpoint: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pointsman", "quantize", str(checkpoint), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


PEAK = """
import resource, sys
from pathlib import Path
from backends.anyprec.quantize import in_words, quantize

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
quantize(Path(sys.argv[1]), Path(sys.argv[2]), bits=(3,), rows_per_table=128, workers=1)
print(peak() - before)
"""


@pytest.mark.timeout(400)  # tens of seconds of one core, and cores are shared
def test_memory_is_that_of_a_layer_and_not_of_the_checkpoint(tmp_path: Path) -> None:
    def grown(layers: int) -> int:
        """Bytes by which the peak of a process exceeds its start."""
        size = {"hidden_size": 128, "intermediate_size": 2048, "num_key_value_heads": 4}
        folder = write_llama(tmp_path / f"in{layers}", num_hidden_layers=layers, **size)
        command = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / f"out{layers}")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    layer_bytes = 4 * (4 * 128 * 128 + 3 * 128 * 2048)  # as float32
    assert grown(4) - grown(1) < 2 * layer_bytes  # the checkpoint grows by three layers


def test_a_half_written_folder_is_not_continued_with_other_settings(checkpoint: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        quantize(checkpoint, tmp_path / "out", rows_per_table=8, progress=stop)
    with pytest.raises(Unsupported, match="other settings"):
        quantize(checkpoint, tmp_path / "out", rows_per_table=4)


def test_a_folder_with_other_files_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Unsupported, match="not empty"):
        quantize(checkpoint, tmp_path)


def test_progress_counts_every_weight(checkpoint: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    report = quantize(
        checkpoint,
        tmp_path / "out",
        bits=(3,),
        rows_per_table=8,
        progress=lambda done, total, _: reported.append((done, total)),
    )
    assert reported[-1] == (report.weights, report.weights)
    assert reported == sorted(reported)


def test_tables_that_outweigh_the_codes_are_warned_about(checkpoint: Path, tmp_path: Path) -> None:
    report = quantize(checkpoint, tmp_path / "heavy", bits=(3, 8), rows_per_table=1)
    assert "outweigh" in report.warnings[0] or "bytes a weight" in report.warnings[0]
    assert report.bytes_per_weight > 2
    assert quantize(checkpoint, tmp_path / "light", bits=(3, 4), rows_per_table=8).warnings == ()


def test_sensitive_weights_are_kept_closer(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", num_hidden_layers=1)
    original = TensorFolder(folder)
    sensitivity = {}
    for name in original.names:
        if "proj.weight" in name:
            sensitivity[name] = np.ones(original.entry(name).shape, np.float32)
            sensitivity[name][:, :1] = 1000.0
    save_file(sensitivity, tmp_path / "fisher.safetensors")
    errors = []
    for number, file in enumerate((None, tmp_path / "fisher.safetensors")):
        quantize(folder, tmp_path / str(number), bits=(3,), rows_per_table=8, sensitivity=file)
        store = Store.open(tmp_path / str(number))
        exact = {layer: original.read(f"{layer}.weight") for layer in store.layers}
        errors.append(sum(((store.dequantize(n, 3) - w)[:, :1] ** 2).sum() for n, w in exact.items()))
    assert errors[1] < errors[0] / 2


def test_bfloat16_checkpoints_are_read(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [0.15625, 3e38]], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    np.testing.assert_allclose(TensorFolder(tmp_path).read("w"), values, rtol=0.01)
    np.testing.assert_allclose(TensorFolder(tmp_path).read("w", rows=slice(1, 2)), values[1:], rtol=0.01)


@pytest.mark.parametrize(("text", "bits"), [("3-8", (3, 4, 5, 6, 7, 8)), ("8,3,4", (3, 4, 8)), ("2", (2,))])
def test_widths_are_read_from_ranges_and_lists(text: str, bits: tuple[int, ...]) -> None:
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["", "1-4", "3-9", "8-3", "three", "3,,4"])
def test_impossible_widths_are_refused(text: str) -> None:
    with pytest.raises(Unsupported, match="bits"):
        parse_bits(text)


def test_the_command_quantizes_under_a_progress_bar(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkpoint, out=tmp_path / "out", bits="3-4", rows_per_table=8)
    assert Store.open(tmp_path / "out").bits == (3, 4)
    assert "a quantized weight" in " ".join(capsys.readouterr().err.split())


def test_without_the_extra_quantizing_ends_with_one_sentence_that_names_it() -> None:
    code = "import sys; sys.modules['numba'] = None; import cli; sys.exit(cli.main(['quantize', 'in', '--out', 'out']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pointsman[quantize]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_time_is_said_before_the_first_matrix(checkpoint: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    quantize(
        checkpoint,
        tmp_path / "timed",
        rows_per_table=8,
        workers=2,
        estimated=lambda seconds, threads: heard.append((f"on {threads}", seconds)),
        progress=lambda *_: heard.append(("working", 0.0)),
    )
    assert [what for what, _ in heard[:2]] == ["on 2", "working"]
    assert 0 < heard[0][1] < 600


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (45, "45 s"), (400, "7 minutes"), (9000, "2.5 hours")])
def test_a_time_is_told_as_a_person_would(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
