"""What a model can do, as far as the settings, a provider's list and the kind of its backend say."""

from __future__ import annotations

from collections.abc import Mapping

from router.settings.listed import Listed
from router.settings.sections import ModelSection

_ENGINE = frozenset({"chat", "completions", "tools", "logprobs", "responses", "messages"})
CAPABILITIES: Mapping[str, frozenset[str]] = {
    "vllm": _ENGINE,
    "scripted": _ENGINE,
    "litellm": _ENGINE - {"completions"},
    "embedded": frozenset({"chat", "completions", "tools", "logprobs"}),
}
EVERYTHING = _ENGINE | {
    "vision",
    "embeddings",
}  # of a model that nobody knows: it is asked for by name and refuses itself


def able(kind: str, section: ModelSection, listed: Listed) -> frozenset[str]:
    """What the document says, else what the provider's list says, else what the kind of backend can."""
    if section.capabilities is not None:
        return section.capabilities
    if listed.mode == "embedding":
        return frozenset({"embeddings"})
    if listed.mode == "completion":
        return frozenset({"completions", "logprobs"})
    if listed.mode not in (None, "chat", "responses"):
        return frozenset()
    known = CAPABILITIES[kind] - ({"tools"} if listed.abilities is not None and kind == "litellm" else set())
    return known | (listed.abilities or frozenset())
