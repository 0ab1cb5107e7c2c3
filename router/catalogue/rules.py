"""What settings make of rules: how a gateway decides, what it learns from, what machines cost."""

from __future__ import annotations

from router.errors import SettingsError
from router.gateway.machine_pricing import MachineRate
from router.gateway.names import Names
from router.gateway.types import JudgeRules, LearningRules, Options
from router.learning.graders.rules import AnswerRule
from router.settings import Settings
from router.stores.keys import Registry, Team, Tenant


def options_of(settings: Settings) -> Options:
    """How this gateway decides."""
    return Options(
        policy=settings.policy.name,
        on_request=settings.on_request(),
        preference=settings.preference.default,
        aliases=settings.aliases,
        names=_names(settings),
        remember=settings.log.enabled,
        refuse_worthless=settings.budgets.when_short == "refuse",
        refuse_unforeseen=settings.budgets.unbounded == "refuse",
        reference_usd=settings.worth_usd(),
        k=settings.index.k,
        learning=learning_of(settings),
        hold_ttl_ms=int(settings.store.hold_ttl_s * 1000),
        longest_ms=int(settings.server.longest_s * 1000),
        keep_characters=settings.log.text_characters if settings.log.keep_text else 0,
    )


def _names(settings: Settings) -> Names:
    chains = settings.fallbacks, settings.context_fallbacks
    mapped = {**settings.read.renamed, **settings.model_map}
    return Names(mapped, settings.unknown_model, *chains, settings.read.whys())


def learning_of(settings: Settings) -> LearningRules:
    """What is learned of answers without being told."""
    section, judge = settings.learning, settings.learning.judge
    rules = None
    if judge is not None:
        pairwise = judge.mode == "pairwise"
        key = judge.key.get_secret_value()
        rules = JudgeRules(judge.models, key, judge.share, pairwise, judge.rubric, judge.max_tokens)
    return LearningRules(section.sources, tuple([AnswerRule(**dict(each)) for each in section.rules]), rules)


def machine_rates_of(settings: Settings) -> dict[str, MachineRate]:
    """What machines cost, by backend, where the settings say."""
    return {
        name: MachineRate(section.machine_usd_per_hour, engines=section.engines)
        for name, section in settings.backends.items()
        if section.machine_usd_per_hour is not None
    }


async def must_be_alone(settings: Settings, keys: Registry) -> None:
    """Raises: SettingsError where the file has a tenant or team to which the admin API gave terms."""
    for name, tenant in settings.tenants.items():
        for cls, path, each in ((Tenant, "", name), *((Team, f".teams.{team}", team) for team in tenant.teams)):
            if await keys.has_terms(cls, each):
                kind = cls.__name__.lower()
                raise SettingsError(
                    f"tenants.{name}{path}: the admin API has a {kind} {each!r} with terms of its own too"
                )
