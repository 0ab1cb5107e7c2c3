"""docs/settings.md is the reference, and the examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.settings import build, load
from router.settings.listed import Listed
from router.settings.source import parse
from router.types import Price
from tests.settings.reference import rewritten

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = sorted(
    [*ROOT.glob("examples/*.yaml"), *ROOT.glob("deploy/settings/*.yaml"), *ROOT.glob("deploy/**/pointsman.yaml")]
)


def price(upstream: str) -> Listed:
    return Listed(Price(1, 1))  # type: ignore[arg-type]


class Anything(dict[str, str]):
    """An environment in which every variable is set."""

    def __missing__(self, name: str) -> str:
        return "a-value-long-enough"

    def __contains__(self, name: object) -> bool:
        return True


def test_the_page_lists_every_key_as_it_is() -> None:
    assert rewritten(PAGE) == PAGE, "run: python -m tests.settings.reference"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_valid(path: Path) -> None:
    assert load(path, Anything(), listed=price)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE + README, re.DOTALL))
def test_every_snippet_on_the_page_and_in_the_readme_is_valid(text: str) -> None:
    assert build(parse(text), Anything(), listed=price)
