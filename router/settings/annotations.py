"""What reading a file brought to light beside the settings: notes, entries nothing can be sent to, its own paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.settings.complaints import own_path


@dataclass(frozen=True, slots=True)
class Annotations:
    """Of one file. `origins`: the user's own path of each path that was translated."""

    notes: tuple[str, ...] = ()
    unroutable: tuple[str, ...] = ()  # NAME (path): why; the line to add
    origins: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)  # names that none here can have -> what they became

    def whys(self) -> dict[str, str]:
        """By name, why nothing can be sent to any entry of that name."""
        found: dict[str, list[str]] = {}
        for line in self.unroutable:
            found.setdefault(line.partition(" (")[0], []).append(line)
        return {name: "; ".join(lines) for name, lines in found.items()}

    def said_by(self, say: Callable[[str], str]) -> Annotations:
        """The same with every place as `say` has it."""
        origins = {made: say(own) for made, own in self.origins.items()}
        return Annotations(tuple(map(say, self.notes)), tuple(map(say, self.unroutable)), origins, self.renamed)

    def path(self, made: str) -> str:
        """The path in the user's own file of a path in Pointsman's form."""
        return own_path(made, self.origins)
