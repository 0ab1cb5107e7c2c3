"""What a changed settings file changes while running, and what of it needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from router.settings.document import Settings
from router.settings.sections import ModelSection

_NAMES = ("model_map", "unknown_model", "fallbacks", "context_fallbacks", "model_budgets")
LIVE = (
    "auth",
    "models",
    "admission",
    "default_price",
    "preference",
    "aliases",
    "tenants",
    "learning",
    "page",
    "backends",
    "programs",
    *_NAMES,
)
"""Taken up while running: new backends are opened, those no model needs any more are closed once drained."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of models, and paths of keys."""

    added: tuple[str, ...]  # models that are new
    drained: tuple[str, ...]  # models that are gone, or marked `drain`: they finish what runs
    repriced: tuple[str, ...]  # models whose price changed
    altered: tuple[str, ...]  # models of which something else changed
    live: tuple[str, ...]  # sections taken up at once
    restart: tuple[str, ...]  # keys that only a restart takes up

    def __bool__(self) -> bool:
        return any((self.added, self.drained, self.repriced, self.altered, self.live, self.restart))

    def detail(self) -> dict[str, list[str]]:
        """What there is of them, as JSON may say it."""
        return {name: list(each) for name, each in asdict(self).items() if each}


def diff(old: Settings, new: Settings) -> Changes:
    """From the running settings to the new ones."""
    before = {each.name: each for each in old.models}
    after = {each.name: each for each in new.models}
    kept = [name for name in after if name in before]
    gone = [name for name in before if name not in after]
    stopped = [name for name in kept if after[name].drain and not before[name].drain]
    return Changes(
        added=tuple(name for name in after if name not in before),
        drained=(*gone, *stopped),
        repriced=tuple(n for n in kept if old.price_of(before[n]) != new.price_of(after[n])),
        altered=tuple(n for n in kept if _rest(before[n]) != _rest(after[n])),
        live=tuple(key for key in LIVE if getattr(old, key) != getattr(new, key)),
        restart=tuple(_restart(old, new)),
    )


def _rest(model: ModelSection) -> ModelSection:
    """A model without what has a name of its own among the changes."""
    return model.model_copy(update={"price": None, "drain": False})


def _restart(old: Settings, new: Settings) -> Iterator[str]:
    for section in Settings.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if section in LIVE or before == after:
            continue
        fields = type(before).model_fields if hasattr(type(before), "model_fields") else {}
        if type(before) is not type(after) or not fields:
            yield section
            continue
        yield from (f"{section}.{key}" for key in fields if getattr(before, key) != getattr(after, key))
