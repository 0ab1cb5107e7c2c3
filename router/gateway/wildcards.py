"""Models that no file lists one by one: what a client names under `openai/*` is called by that name.

How it fails: a name that nothing prices is NotFound, with the line to add. Names that neither the list nor an engine
knows are taken on trust, so many and no more: each would be remembered wherever models are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from router.errors import NotFound
from router.types import Model
from router.wildcards import nearest

if TYPE_CHECKING:
    from backends.discovery import Found
    from router.settings import Settings
    from router.settings.sections import ModelSection

MOST_UNLISTED = 1_000
MOST_KEPT = 10_000


class Wildcards:
    """Of one document of settings. `reported` gives what the engines of a backend list, `under` what a list prices,
    `today` the date, YYYY-MM-DD. A name with an entry of its own that cannot be called stands under no wildcard."""

    def __init__(
        self,
        settings: Settings,
        reported: Callable[[str], Iterable[Found]],
        under: Callable[[str], Iterable[str]],
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        self._settings, self._reported, self._under, self._today = settings, reported, under, today
        self._gone = settings.read.whys()
        self._sections = {each.name: each for each in settings.wildcards}
        self._patterns = [each.name for each in settings.models if "*" in each.name]
        self._found: dict[str, Model] = {}
        self._unlisted: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def names(self) -> list[str]:
        """The wildcards themselves."""
        return list(self._sections)

    def meaning(self, name: str) -> str | None:
        """What a name stands for: itself under a wildcard, or a pattern with one upstream; None for other names."""
        pattern = None if name in self._gone else nearest(self._patterns, name)
        return name if pattern in self._sections else pattern

    def find(self, name: str) -> Model | None:
        """The model of this name under the nearest wildcard; None where none fits. Raises: NotFound."""
        if (known := self._found.get(name)) is not None:
            return known
        section = self._sections.get(nearest(self._sections, name) or "")
        return None if section is None or name in self._gone else self._keep(self._made(section, name))

    def listed(self) -> list[Model]:
        """Every model under a wildcard that an engine or the list of prices names."""
        found: dict[str, Model] = {}
        for section in self._sections.values():
            for name in self._names(section):
                model, _ = self._settings.named_under(section, name)
                if model is None or not model.capabilities or name in self._gone or self._retired(section, name):
                    continue
                if nearest(self._sections, name) == section.name:
                    found[name] = model
        return list(found.values())

    def _names(self, section: ModelSection) -> Iterable[str]:
        """What a client may say, of what is known of the wildcard's upstream."""
        before, _, after = (section.upstream or section.name).partition("*")
        backend = self._settings.backend_of(section)
        if self._settings.backends[backend].kind == "litellm":
            known = self._under(before.partition("/")[0])
        else:
            known = (each.name for each in self._reported(backend))
        for upstream in known:
            if upstream.startswith(before) and upstream.endswith(after):
                yield section.name.replace("*", upstream[len(before) : len(upstream) - len(after)])

    def _made(self, section: ModelSection, name: str) -> Model:
        model, is_listed = self._settings.named_under(section, name)
        if model is None:
            message = f"nothing prices {section.upstream_of(name)!r}, which {section.name} stands for: give {name!r} an"
            raise NotFound(f"{message} entry of its own with a price", param="model", code="model_not_found")
        if (day := self._retired(section, name)) is not None:
            message = (
                f"{section.upstream_of(name)} was retired on {day} (by litellm's cost map): give {name!r} an entry"
            )
            remedy = "of its own with model_info.deprecation_date where it still answers"
            raise NotFound(f"{message} {remedy}", param="model", code="model_not_found")
        reported = next((each for each in self._reported(model.backend) if each.name == model.upstream), None)
        if reported is not None and reported.context_tokens is not None and section.context_tokens is None:
            longest = min(section.max_output_tokens or reported.context_tokens, reported.context_tokens)
            model = replace(model, context_tokens=reported.context_tokens, max_output_tokens=longest)
        if not is_listed and reported is None:
            self._trust(name)
        return model

    def _retired(self, section: ModelSection, name: str) -> str | None:
        """The day on which a provider took the model away, if it has."""
        day = self._settings.retires_under(section, name)
        return day if day is not None and day <= self._today() else None

    def _trust(self, name: str) -> None:
        if len(self._unlisted) >= MOST_UNLISTED:
            message = f"{MOST_UNLISTED} names were asked for that no list has: give {name!r} an entry of its own"
            raise NotFound(message, param="model", code="model_not_found")
        self._unlisted.add(name)

    def _keep(self, model: Model) -> Model:
        if len(self._found) >= MOST_KEPT:
            self._found.clear()
        self._found[model.name] = model
        return model
