"""The pages: every link leads somewhere, every verb and target they name exists."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from cli import parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")])
FILES = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("*/**/*.*") if ".venv" not in str(path)]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def verbs() -> set[str]:
    (choices,) = [each.choices for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return set(choices or ())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_into_a_page_leads_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [(to, name) for to, name in links if name not in anchors(page.parent / to if to else page)] == []


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_verb_it_names_exists(page: Path) -> None:
    named = re.findall(r"(?:`|^    |\| `)pointsman ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) - verbs() == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_it_names_exists(page: Path) -> None:
    named = re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert set(named) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_it_runs_exists(page: Path) -> None:
    named = re.findall(r"python -m ((?:benchmarks|router|backends)[a-z_.]*[a-z])", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
    assert [name for name in missing if not (ROOT / name.replace(".", "/") / "__main__.py").exists()] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in {"archive.md", "CHANGELOG.md"}], ids=name_of
)
def test_every_file_of_ours_it_names_exists(page: Path) -> None:
    """`drift.py` or `policies/estimators/drift.py`: a page whose files were renamed leads nowhere."""
    named = set(re.findall(r"`([a-z_0-9]+(?:/[a-z_0-9]+)*\.(?:py|lua|cu|cuh))`", page.read_text(encoding="utf-8")))
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in FILES)} == set()


def test_every_kind_of_backend_is_named_by_a_file_that_is_there() -> None:
    page = (ROOT / "docs/backends.md").read_text(encoding="utf-8")
    files = re.findall(r"^\| `\w+` \| `\w+` \((\w+\.py)\)", page, re.MULTILINE)
    assert files
    assert [name for name in files if not (ROOT / "backends" / name).exists()] == []


DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_is_context_choice_price_evidence_and_status(page: Path) -> None:
    title, gap, *lines = page.read_text(encoding="utf-8").strip().split("\n")
    assert title.startswith(f"# {page.name[:3]} · ")
    assert gap == ""
    assert [line.partition(":")[0] for line in lines] == ["- Context", "- Choice", "- Price", "- Evidence", "- Status"]
