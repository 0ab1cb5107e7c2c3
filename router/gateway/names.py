"""What a client may ask for beside the names of models: an application's own names, and chains of fallbacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from router.errors import NotFound, PointsmanError
from router.wildcards import nearest

if TYPE_CHECKING:
    from router.gateway.types import Call

Chains = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Names:
    """From settings; replaced as a whole when they are reloaded."""

    mapped: Mapping[str, str] = field(default_factory=dict)  # an application's name -> a model, auto or auto:NAME
    unknown: str | None = None  # what every other name means; None: it is an error
    fallbacks: Chains = field(default_factory=dict)  # by name: asked in this order where that one cannot answer
    context_fallbacks: Chains = field(default_factory=dict)  # … where the request is too long for it
    unroutable: Mapping[str, str] = field(default_factory=dict)  # by name: why nothing can be sent there

    def meaning(self, name: str, models: Collection[str], wildcard: Callable[[str], str | None] | None = None) -> str:
        """The model, `auto` or `auto:NAME` that a client's name stands for; the name itself where it is one."""
        if name in models or name == "auto" or name.startswith("auto:"):
            return name
        meant = self.mapped.get(name) or (wildcard(name) if wildcard else None)
        if meant is not None:
            return meant
        return name if self.unknown is None or name in self.fallbacks else self.unknown

    def after(self, call: Call, error: PointsmanError) -> Iterator[Call]:
        """The same call for each model of the chain of the name it was asked by, in order, after this error.

        A chain of `*` is every model's, and no name's that stands for none.
        """
        name = call.requirements.pinned
        if name is None:
            return
        chains = self.context_fallbacks if error.code == "context_length_exceeded" else self.fallbacks
        pattern = None if isinstance(error, NotFound) else nearest(chains, name)
        for each in chains.get(name) or chains.get(pattern or "", ()):
            yield replace(call, requirements=msgspec.structs.replace(call.requirements, pinned=each))
