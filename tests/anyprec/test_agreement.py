"""What needs torch: the numpy forward against transformers, and sensitivities. `make test-vllm` runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.engine.llama import Cache, Llama, NewTokens
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.fisher import measure
from backends.anyprec.quantize import quantize
from backends.anyprec.store import Store
from backends.anyprec.tensors import TensorFolder
from tests.anyprec.llamas import write_llama

torch = pytest.importorskip("torch", reason="needs pointsman[compensate]; make test-vllm has it")
transformers = pytest.importorskip("transformers", reason="needs pointsman[compensate]; make test-vllm has it")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "head_dim": 16, "sliding_window": None},
        {"tie_word_embeddings": False, "num_key_value_heads": 4},
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ],
    ids=["llama", "qwen2", "mistral", "untied", "llama3-rope"],
)  # fmt: skip
def test_logits_agree_with_transformers_on_the_same_weights(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = write_llama(tmp_path / "in", **changes)
    quantize(folder, tmp_path / "out", bits=(3, 6), rows_per_table=8)
    model = Llama(Weights(Store.open(tmp_path / "out")))
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 256, 100)]
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    store = model.weights.store
    for bits in store.bits:
        weights = {f"{layer}.weight": torch.tensor(store.dequantize(layer, bits)) for layer in store.layers}
        others = [n for n in store._tensors.names if not n.endswith("planes") and ".lut" not in n]
        reference.load_state_dict(weights | {n: torch.tensor(store.tensor(n)) for n in others}, strict=False)
        with torch.no_grad():
            expected = reference(input_ids=torch.tensor([tokens])).logits[0].numpy()
        run = NewTokens(tokens, Cache(model.shape, 100), Variant(bits))
        np.testing.assert_allclose(model.forward([run], every_position=True), expected, atol=1e-4)


def test_sensitivities_are_the_squared_gradients_of_the_texts_loss(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "in", num_hidden_layers=1)
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog.")
    measure(folder, tmp_path / "text.txt", out=tmp_path / "fisher.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    found = TensorFolder(tmp_path / "fisher.safetensors").read(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = torch.tensor([list((tmp_path / "text.txt").read_bytes())])
    weight, losses = model.get_parameter(name), []
    with torch.no_grad():
        for step in (0.02, -0.04):  # one weight a little up, then as far down
            weight[3, 5] += step
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert found[3, 5] == pytest.approx(((losses[0] - losses[1]) / 0.04) ** 2, rel=0.02)
    report = quantize(
        folder, tmp_path / "out", bits=(3,), rows_per_table=8, sensitivity=tmp_path / "fisher.safetensors"
    )
    assert Store.open(report.out).bits == (3,)
