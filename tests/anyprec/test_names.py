"""The grammar of widths is one: what is written is read again, and nothing else is a width."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.anyprec.names import WidthName, parsed_width, width_name, width_of
from tests.house.rules import sources

MODELS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: "\n" not in text)


FRACTIONS = st.integers(100, 9999).filter(lambda hundredths: hundredths % 100 != 0).map(lambda each: each / 100)


@given(MODELS, st.integers(1, 99) | FRACTIONS, st.sampled_from(["", "eora", "a+b"]))
def test_a_name_that_was_written_is_read_again(model: str, bits: float, adapter: str) -> None:
    assert parsed_width(width_name(model, bits, adapter)) == WidthName(model, bits, adapter)


@pytest.mark.parametrize(
    "name",
    [
        "m",
        "m@3",
        "m@bit",
        "@3bit",
        "m@0bit",
        "m@03bit",
        "m@333bit",
        "m@3bits",
        "m@3bit+",
        "m@3bit\n",
        "m@٣bit",
        "m@3.bit",
        "m@3.0bit",
        "m@3.50bit",
        "m@3.125bit",
        "m@.5bit",
        "m@0.5bit",
        "m@3,5bit",
    ],
)
def test_what_is_no_width_is_none(name: str) -> None:
    assert parsed_width(name) is None


@pytest.mark.parametrize(
    ("value", "width"),
    [(3, 3), (3.0, 3), (3.25, 3.25), (3.5, 3.5), (True, None), ("3", None), (3.125, None), (0, None), (-3, None),
     (1e308, None), (float("nan"), None), (None, None), (100, None)],
)  # fmt: skip
def test_a_number_is_a_width_or_none(value: object, width: float | None) -> None:
    found = width_of(value)
    assert found == width
    assert type(found) is type(width)


def test_a_models_own_at_sign_stays_its_own() -> None:
    assert parsed_width("org@v2/m@4bit@3bit") == WidthName("org@v2/m@4bit", 3)


def test_nobody_else_writes_or_reads_the_grammar() -> None:
    """Neither a formatted `@…bit` nor the key of requests stands in any other file of the project."""
    found = []
    for path, text in sources().items():
        if Path(path) == Path("backends/anyprec/names.py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                if "@{}bit" in "".join(map(str, parts)):
                    found.append(path)
            if isinstance(node, ast.Constant) and (node.value == "anyprec_bits" or ")bit" in str(node.value)):
                found.append(path)
    assert found == []
