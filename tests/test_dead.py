"""Nothing of the product is there for tests and benchmarks alone."""

from __future__ import annotations

import ast
import collections
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


def test_every_name_of_the_product_is_used_by_the_product() -> None:
    words = collections.Counter(re.findall(r"\w+", "\n".join(ours().values())))
    counted = collections.Counter(defined())
    unused = {name for name, count in counted.items() if words[name] <= count}
    assert unused - set().union(*CALLED.values()) == set(KEPT)
