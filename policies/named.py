"""The named policies: each name is one estimator, one pacer and one explorer, with its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from policies.composed import Composed
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.explorers.greedy import Best, Cheapest, Epsilon, Fixed, Greedy, Uniform
from policies.pacers.flat import Flat
from policies.types import Arm, Explorer, Policy

Arms = tuple[Arm, ...]


def _random(arms: Arms, /) -> Policy:
    return Composed(Means(), Flat(), Uniform())


def _fixed(arms: Arms, /, *, arm: str = "") -> Policy:
    if not arm:
        raise ValueError("policy fixed needs the option arm, the name of a model")
    return Composed(Means(), Flat(), Fixed(arm))


def _cheapest(arms: Arms, /) -> Policy:
    return Composed(Means(), Flat(), Cheapest())


def _best(arms: Arms, /) -> Policy:
    return Composed(Means(), Flat(), Best())


def _neighbours(arms: Arms, /, *, k: int = 40, shrinkage: float = 10.0, explore: float = 0.0) -> Policy:
    return Composed(NeighbourMeans(Means(), k=k, shrinkage=shrinkage), Flat(), _explorer(explore))


def _explorer(share: float) -> Explorer:
    return Epsilon(share) if share else Greedy()


_BUILDERS: dict[str, Callable[..., Policy]] = {
    "random": _random,
    "fixed": _fixed,
    "cheapest": _cheapest,
    "best": _best,
    "neighbours": _neighbours,
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def options_of(name: str) -> Mapping[str, object]:
    """Options of a named policy with their defaults. Raises: ValueError for an unknown name."""
    if name not in _BUILDERS:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(NAMES)}")
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def build(name: str, arms: Sequence[Arm], options: Mapping[str, object] | None = None) -> Policy:
    """The policy of that name over these arms; arms that appear later are met with their prior.

    Raises: ValueError for an unknown name, an unknown option or a value out of range, naming it and what exists.
    """
    known, given = options_of(name), dict(options or {})
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"policy {name} has no option {key!r}; it has {', '.join(known) or 'none'}")
        given[key] = _typed(f"{name}.{key}", value, known[key])
    return _BUILDERS[name](tuple(arms), **given)


def _typed(path: str, value: object, default: object) -> object:
    """The value as the type of the default. Raises: ValueError where it is of another kind."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{path} is {value!r}, expected {type(default).__name__}")
    return value
