"""What the product imports is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.house.rules import PACKAGES, ROOT, sources, trees

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WHEEL = tuple(each for each in PACKAGES if each not in {"research", "benchmarks"})
OF_EXTRAS = {
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
    "opentelemetry": "opentelemetry-sdk",
    "cuda": "cuda-bindings",
    "pareto_bandit": "paretobandit",
}
PARTS = {"starlette", "hiredis", "pydantic-core"}  # of fastapi, redis[hiredis] and pydantic, by their own promise
BY_NAME = {"uvloop": "router/http/server.py"}  # uvicorn imports what it is told


def plain(name: str) -> str:
    return re.split(r"[\[<>=;! ]", name)[0].lower().replace("_", "-")


def imported() -> set[str]:
    """Distributions of the modules that files of the wheel import, and that `LazyModule` does for them."""
    modules = set()
    for path, tree in trees().items():
        if not path.startswith(tuple(f"{each}/" for each in WHEEL)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "LazyModule":
                modules.add(ast.literal_eval(node.args[0]).partition(".")[0])
    foreign = modules - set(PACKAGES) - sys.stdlib_module_names
    known = packages_distributions()
    return {plain(OF_EXTRAS.get(each) or known.get(each, [each])[0]) for each in foreign}


def test_every_base_dependency_is_imported_by_the_product() -> None:
    reported = {name for name, path in BY_NAME.items() if f'"{name}"' in sources()[path]}
    assert {plain(each) for each in PROJECT["dependencies"]} - imported() - reported == set()


def test_everything_the_product_imports_is_a_dependency_or_of_an_extra() -> None:
    declared = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    assert imported() - PARTS - {plain(each) for each in declared} == set()
