"""The named policies: each name is one estimator, one pacer and one explorer, with its options."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from policies.composed import Composed, WarmUp
from policies.escalation import Escalation
from policies.estimators.abilities import Abilities
from policies.estimators.linear import Linear
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans, leave_one_out
from policies.estimators.repriced import Repriced
from policies.explorers.greedy import Best, Cheapest, Epsilon, Fixed, Greedy, Uniform
from policies.explorers.thompson import Thompson
from policies.explorers.ucb import Ucb
from policies.paced import build as _paced
from policies.pacers.budgets import Budgets
from policies.pacers.exact import Resolved
from policies.pacers.flat import Flat
from policies.pacers.port import OneShot
from policies.pacers.remaining import ANSWER, Remaining, may_refuse
from policies.tenant_effects import TenantEffects
from policies.types import Arm, Explorer, StoredPolicy

Arms = tuple[Arm, ...]

_NO_BUDGETS: Mapping[str, float] = MappingProxyType({})


def _random(arms: Arms, /) -> StoredPolicy:
    return Composed(Means(), Flat(), Uniform())


def _fixed(arms: Arms, /, *, arm: str = "") -> StoredPolicy:
    if not arm:
        raise ValueError("policy fixed needs the option arm, the name of a model")
    return Composed(Means(), Flat(), Fixed(arm))


def _cheapest(arms: Arms, /) -> StoredPolicy:
    return Composed(Means(), Flat(), Cheapest())


def _best(arms: Arms, /) -> StoredPolicy:
    return Composed(Means(), Flat(), Best())


def _neighbours(
    arms: Arms,
    /,
    *,
    k: int = 40,
    shrinkage: float = 10.0,
    explore: float = 0.0,
    when_short: str = ANSWER,
    opening: int = 20,
) -> Composed:
    means = Means()
    estimator = NeighbourMeans(means, k=k, shrinkage=shrinkage)
    pacer = _pacer(when_short, k=k, shrinkage=shrinkage)
    return Composed(estimator, pacer, _explorer(explore), warm_up=_opening(means, opening), tenants=TenantEffects())


def _opening(means: Means, judgements: int) -> WarmUp | None:
    """Until so many of each model are judged, in the mean, models are tried by how likely each is the best. Who only
    takes the best so far may never try a better one."""
    if judgements <= 0:
        return None
    return WarmUp(lambda context: means.judged(context.arms) < judgements * len(context.arms), Thompson())


def _pacer(when_short: str, *, k: int = 40, shrinkage: float = 10.0) -> Remaining:
    """Of an estimator without a rehearsal: it is made of neighbours."""
    expect = partial(leave_one_out, k=k, shrinkage=shrinkage)
    return Remaining(may_refuse=may_refuse(when_short), expect=expect)


def _explorer(share: float) -> Explorer:
    return Epsilon(share) if share else Greedy()


def _port(
    arms: Arms,
    /,
    *,
    horizon: int = 10_000,
    budget: float = math.inf,
    budgets: Mapping[str, float] = _NO_BUDGETS,
    k: int = 5,
    alpha: float = 1e-4,
    explore: float = 0.025,
) -> StoredPolicy:
    estimator = NeighbourMeans(Means(), k=k, shrinkage=0.0, trusted=1e-9, contested=False)
    pacer = OneShot(Budgets(horizon, budget, dict(budgets)), explore=explore, alpha=alpha)
    warm_up = WarmUp(lambda _: pacer.exploring, Uniform())
    return Composed(estimator, pacer, Greedy(), mask=False, warm_up=warm_up)


def _port_exact(
    arms: Arms,
    /,
    *,
    horizon: int = 10_000,
    budget: float = math.inf,
    budgets: Mapping[str, float] = _NO_BUDGETS,
    k: int = 40,
    shrinkage: float = 10.0,
    sample: int = 800,
    resolve: float = 0.05,
) -> StoredPolicy:
    expect = partial(leave_one_out, k=k, shrinkage=shrinkage)
    pacer = Resolved(Budgets(horizon, budget, dict(budgets)), expect, sample=sample, resolve=resolve)
    estimator = NeighbourMeans(Means(), k=k, shrinkage=shrinkage, contested=False)  # as those the dual is solved on
    return Composed(estimator, pacer, Greedy())


def _linear(means: Means, rank: int, ridge: float, discount: float) -> Linear:
    return Linear(Repriced(NeighbourMeans(means)), rank=rank, ridge=ridge, discount=discount)


def _linucb(
    arms: Arms,
    /,
    *,
    width: float = 0.5,
    rank: int = 48,
    ridge: float = 30.0,
    discount: float = 0.9995,
    when_short: str = ANSWER,
    opening: int = 20,
) -> Composed:
    means = Means()
    estimator = _linear(means, rank, ridge, discount)
    return Composed(estimator, _pacer(when_short), Ucb(width), warm_up=_opening(means, opening))


def _thompson(
    arms: Arms,
    /,
    *,
    width: float = 1.0,
    rank: int = 48,
    ridge: float = 30.0,
    discount: float = 0.9995,
    when_short: str = ANSWER,
) -> Composed:
    return Composed(_linear(Means(), rank, ridge, discount), _pacer(when_short), Thompson(width))


def _epsilon(
    arms: Arms,
    /,
    *,
    share: float = 0.05,
    k: int = 40,
    shrinkage: float = 10.0,
    when_short: str = ANSWER,
    opening: int = 20,
) -> Composed:
    means = Means()
    estimator = Repriced(NeighbourMeans(means, k=k, shrinkage=shrinkage))
    pacer = _pacer(when_short, k=k, shrinkage=shrinkage)
    return Composed(estimator, pacer, Epsilon(share), warm_up=_opening(means, opening), tenants=TenantEffects())


def _preference(
    arms: Arms, /, *, rank: int = 4, explore: float = 0.02, when_short: str = ANSWER, opening: int = 20
) -> Composed:
    means = Means()
    estimator = Abilities(Repriced(NeighbourMeans(means)), rank=rank)
    return Composed(estimator, _pacer(when_short), _explorer(explore), warm_up=_opening(means, opening))


def _bare(builder: Callable[..., Composed]) -> Callable[..., StoredPolicy]:
    """The same without a pacer: λ is the only price, whatever budgets say."""

    def build_bare(arms: Arms, /, **options: object) -> StoredPolicy:
        policy = builder(arms, **options)
        policy.pacer = Flat()
        return policy

    signature = inspect.signature(builder)
    kept = [each for each in signature.parameters.values() if each.name != "when_short"]
    build_bare.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # functions may have one
    return build_bare


def _escalation(arms: Arms, /) -> StoredPolicy:
    return Escalation()


ESCALATION = "escalation"  # learns and is stored as policies are, and chooses nothing


_BUILDERS: dict[str, Callable[..., StoredPolicy]] = {
    "paced": _paced,
    "random": _random,
    "fixed": _fixed,
    "cheapest": _cheapest,
    "best": _best,
    "neighbours": _neighbours,
    "port": _port,
    "port-exact": _port_exact,
    "linucb": _linucb,
    "thompson": _thompson,
    "epsilon": _epsilon,
    "preference": _preference,
    ESCALATION: _escalation,
}
_BUILDERS |= {
    f"{name}-bare": _bare(builder)
    for name, builder in (
        ("neighbours", _neighbours),
        ("linucb", _linucb),
        ("thompson", _thompson),
        ("epsilon", _epsilon),
        ("preference", _preference),
    )
}

_OPENING = ("neighbours", "linucb", "thompson", "epsilon", "preference")
_SERVING: Mapping[str, tuple[str, ...]] = {  # what each asks of lazily imported modules beside refits
    "paced": ("scipy.optimize", "scipy.special"),
    "port": ("scipy.optimize",),
    "port-exact": ("scipy.optimize", "scipy.sparse"),
} | {f"{name}{bare}": ("scipy.special",) for name in _OPENING for bare in ("", "-bare")}
NAMES: tuple[str, ...] = tuple(name for name in _BUILDERS if name != ESCALATION)
BLIND: frozenset[str] = frozenset({"random", "fixed", "cheapest", "best"})  # they ignore the price of quality


def options_of(name: str) -> Mapping[str, object]:
    """Options of a named policy with their defaults. Raises: ValueError for an unknown name."""
    if name not in _BUILDERS:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(NAMES)}")
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def build(name: str, arms: Sequence[Arm], options: Mapping[str, object] | None = None) -> StoredPolicy:
    """The policy of that name over these arms; arms that appear later are met with their prior.

    Raises: ValueError for an unknown name, an unknown option or a value out of range, naming it and what exists.
    """
    known, given = options_of(name), dict(options or {})
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"policy {name} has no option {key!r}; it has {', '.join(known) or 'none'}")
        given[key] = _typed(f"{name}.{key}", value, known[key])
    for module in _SERVING.get(name, ()):
        importlib.import_module(module)  # now, and not when a request waits for it
    return _BUILDERS[name](tuple(arms), **given)


def _typed(path: str, value: object, default: object) -> object:
    """The value as the type of the default. Raises: ValueError where it is of another kind."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, Mapping):
        return _amounts(path, value)
    if type(value) is not type(default):
        raise ValueError(f"{path} is {value!r}, expected {type(default).__name__}")
    return value


def _amounts(path: str, value: object) -> Mapping[str, float]:
    """Numbers by name. Raises: ValueError for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(each, int | float) for each in value.values()):
        raise ValueError(f"{path} is {value!r}, expected numbers by model name")
    return {str(name): float(amount) for name, amount in value.items()}
