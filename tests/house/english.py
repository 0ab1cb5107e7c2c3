"""Sentences of docstrings and pages, as a reader counts them: code, tables and links' addresses are no prose."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.rules import ROOT, trees

MOST_WORDS = 30
END = re.compile(r"(?<=[.!?…:])[)\"'*_]*\s+(?=[A-ZÀ-Þ`\"'*(\[\d])")
BLOCK = re.compile(
    r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. |#|\||[A-Z][a-z]+:$|[ │├└─]*\w+ {2,}\S)"
)  # also each entry of a list in columns
CODE = re.compile(r"```.*?```|<!--.*?-->|(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n?)+", re.DOTALL)


def long_sentences(text: str) -> Iterator[str]:
    """Those of more than thirty words in plain text."""
    for block in re.split(BLOCK, CODE.sub("\n\n", text)):
        if block.lstrip().startswith("|"):
            continue
        plain = re.sub(r"\]\([^)]*\)", "]", " ".join(block.split()))
        for sentence in END.split(plain):
            if len(re.findall(r"[^\W_][^\s]*", sentence)) > MOST_WORDS:
                yield sentence


def of_docstrings() -> Iterator[tuple[str, str]]:
    """(file, sentence)."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from ((path, each) for each in long_sentences(ast.get_docstring(node) or ""))


def of_pages() -> Iterator[tuple[str, str]]:
    """(page, sentence); the archive of decisions is left as it was written."""
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")]):
        if page.name != "archive.md":
            text = Path(page).read_text(encoding="utf-8")
            yield from ((str(page.relative_to(ROOT)), each) for each in long_sentences(text))
