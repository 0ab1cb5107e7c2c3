"""Nothing of the product is there for tests and benchmarks alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.rules import sources, trees
from tests.house.test_dependencies import WHEEL

CALLED = {
    "vLLM": {
        "create_weights",
        "from_config",
        "get_config_filenames",
        "get_min_capability",
        "get_name",
        "get_quant_method",
        "get_supported_act_dtypes",
        "maybe_update_config",
        "process_weights_after_loading",
    },
    "uvicorn": {"send_400_response"},
    "httptools": {"on_body", "on_headers_complete", "on_message_begin", "on_message_complete"},
}  # names that a library calls
KEPT = {
    "calendar_bounds": "what Redis' script is held to, beside the calendar that it repeats",
    "in_turn": "of the public fake",
    "labelled_answers": "reads a file of the wheel, which says how good the detector of refusals is",
    "WIDTHS": "the widths of the packaged stores, beside the stores",
}


def ours() -> dict[str, str]:
    return {path: text for path, text in sources().items() if path.startswith(tuple(f"{each}/" for each in WHEEL))}


def defined() -> Iterator[str]:
    """Functions, classes and methods, but for what a decorator registers, and constants of modules."""
    plain = {"property", "staticmethod", "classmethod"}
    for path in ours():
        for node in ast.walk(trees()[path]):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if {ast.unparse(each) for each in node.decorator_list} <= plain and not node.name.startswith("__"):
                yield node.name
        for node in trees()[path].body:
            if isinstance(node, ast.Assign):
                yield from (each.id for each in node.targets if isinstance(each, ast.Name) and each.id.isupper())
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper():
                yield node.target.id


def used() -> Iterator[str]:
    """Names that some line reads or hands over, and words of strings that are no docstrings."""
    for path in ours():
        tree = trees()[path]
        docs = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                    yield name
                case ast.keyword(arg=str(name)):
                    yield name
                case ast.Constant(value=str(text)) if id(node) not in docs:
                    yield from re.findall(r"\w+", text)


def test_every_name_of_the_product_is_used_by_the_product() -> None:
    assert set(defined()) - set(used()) - set().union(*CALLED.values()) == set(KEPT)


def test_every_setting_is_read() -> None:
    fields = {
        each.target.id
        for path in ours()
        if path.startswith("router/settings/")
        for node in trees()[path].body
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    assert fields - set(used()) == set()


def test_every_metric_is_counted() -> None:
    page, *others = (trees()[path] for path in ("router/telemetry/exposition.py", "router/telemetry/metrics.py"))
    named = {
        key.value
        for node in ast.walk(page)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    counted = {node.value for tree in others for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert named
    assert named - counted == set()
