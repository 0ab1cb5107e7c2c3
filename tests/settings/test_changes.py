"""What a changed file changes."""

from __future__ import annotations

from router.settings import diff
from tests.settings.conftest import Read

FILE = """
server: {port: 8080}
backends: {gpu: {kind: vllm, url: http://gpu}}
models:
- {name: a, price: {prompt: 1, completion: 1}}
- {name: b, price: {prompt: 1, completion: 1}}
"""


def test_the_same_file_changes_nothing(read: Read) -> None:
    assert not diff(read(FILE), read(FILE))


def test_models_join_leave_and_change_their_price(read: Read) -> None:
    after = FILE.replace("name: b,", "name: c,").replace("a, price: {prompt: 1", "a, price: {prompt: 2")
    changes = diff(read(FILE), read(after))
    assert (changes.added, changes.drained, changes.repriced) == (("c",), ("b",), ("a",))
    assert changes.live == ("models",)
    assert changes.restart == ()


def test_a_model_marked_drain_is_drained(read: Read) -> None:
    assert diff(read(FILE), read(FILE.replace("name: b,", "name: b, drain: true,"))).drained == ("b",)


def test_anything_else_about_a_model_is_an_alteration(read: Read) -> None:
    assert diff(read(FILE), read(FILE.replace("name: b,", "name: b, upstream: x,"))).altered == ("b",)


def test_what_needs_a_restart_is_named_by_its_key(read: Read) -> None:
    after = FILE.replace("8080", "9090") + "embedder: {kind: static, model: m}\nlog: {keep_text: true}\n"
    changes = diff(read(FILE), read(after))
    assert changes.restart == ("server.port", "embedder", "log.keep_text")


def test_a_default_price_reprices_what_it_prices(read: Read) -> None:
    before = (
        "backends: {gpu: {kind: vllm, url: http://gpu}}\nmodels: [{name: a}]\ndefault_price: {prompt: 1, completion: 1}"
    )
    assert diff(read(before), read(before.replace("prompt: 1", "prompt: 2"))).repriced == ("a",)
