"""The engines that the shipped files start can call tools: their parser fits their model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "compose.yaml", *sorted(ROOT.glob("deploy/kubernetes/**/vllm*.yaml"))]
PARSERS = {
    "Qwen/Qwen2.5": "hermes",
    "/stores/large": "hermes",
    "meta-llama/Llama-3.1": "llama3_json",
}  # vLLM's page on tool calling
_MODELS = re.compile(r"(?:Qwen|meta-llama|/stores)/[\w.-]+")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_engine_that_is_shipped_has_the_parser_of_its_model(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    models = _MODELS.findall(text)
    expected = [parser for model in models for begins, parser in PARSERS.items() if model.startswith(begins)]
    assert models
    assert len(expected) == len(models)
    assert text.count("--enable-auto-tool-choice") == len(models)
    found = re.findall(r"--tool-call-parser\W+(?:\w+_TOOL_PARSER:-)?(\w+)", text)
    assert found == expected


def test_the_shipped_models_do_not_think_and_one_that_does_gets_its_parser_by_a_variable() -> None:
    compose, example = (ROOT / "compose.yaml").read_text(), (ROOT / "deploy" / "env.example").read_text()
    variables = re.findall(r'"--reasoning-parser", "\$\{(\w+):-\}"', compose)
    assert len(variables) == compose.count("--tool-call-parser") == 3
    assert all(f"\n{name}=\n" in example for name in variables)
