"""The house's rules, read from the source: each finds who breaks it, by name."""

from __future__ import annotations

import ast
import collections
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("pointsman", "cli", "evaluation", "router", "backends", "policies", "research", "benchmarks")
MOST_MEMBERS = 3  # of a protocol
MOST_ARGUMENTS = 6  # of a constructor
MOST_LINES = 400  # of a file
MOST_ROOMS, MOST_FLOORS = 15, 8  # of router/


@cache
def sources() -> dict[str, str]:
    """Every file of the project's own packages, by its path."""
    return {str(path.relative_to(ROOT)): path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}


@cache
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse(text) for path, text in sources().items()}


def _classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path, tree in trees().items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def large_protocols() -> set[str]:
    """Protocols of typing with more than three members."""
    found = set()
    for path, node in _classes():
        bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
        is_typing = "Protocol" in bases and not any("asyncio" in ast.unparse(base) for base in node.bases)
        members = [
            each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign)
        ]
        if is_typing and len(members) > MOST_MEMBERS:
            found.add(f"{path}:{node.name}")
    return found


def long_constructors() -> set[str]:
    """Classes whose own __init__ takes more than six arguments; plain records have none of their own."""
    found = set()
    for path, node in _classes():
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                given = len(each.args.posonlyargs) + len(each.args.args) - 1 + len(each.args.kwonlyargs)
                if given > MOST_ARGUMENTS:
                    found.add(f"{path}:{node.name}")
    return found


def names_given_twice() -> set[str]:
    """Class names that stand for two things."""
    counted = collections.Counter(node.name for _, node in _classes())
    return {name for name, count in counted.items() if count > 1}


def long_files() -> set[str]:
    return {path for path, text in sources().items() if len(text.splitlines()) > MOST_LINES}


def private_imports() -> set[str]:
    """Private names taken from another package of the project, by import or through a module."""
    found = set()
    for path, tree in trees().items():
        own = str(Path(path).parent).replace("/", ".")
        modules = dict(_imported_modules(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and _is_ours(node.module) and not _is_inside(node.module, own):
                parts = {*str(node.module).split("."), *(alias.name for alias in node.names)}
                found |= {f"{path}:{part}" for part in parts if _is_private(part)}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and _is_private(node.attr):
                module = modules.get(node.value.id)
                if module is not None and not _is_inside(module, own):
                    found.add(f"{path}:{node.attr}")
    return found


def _imported_modules(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(the name it has here, the module) of each module of ours that is imported as a whole."""
    known = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in sources()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in known:
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _is_ours(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in PACKAGES


def _is_inside(module: str | None, package: str) -> bool:
    return str(module).rpartition(".")[0] == package or str(module) == package


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def rooms() -> list[str]:
    """What lies at the top of router/."""
    top = ROOT / "router"
    names = [path.stem for path in top.glob("*.py") if path.stem != "__init__"]
    return sorted(names + [path.parent.name for path in top.glob("*/__init__.py")])


def contracts() -> list[dict[str, Any]]:
    """What import-linter holds."""
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found
