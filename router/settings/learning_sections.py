"""The sections of a settings file that say what is learned of answers without being told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from router.settings.scalars import Pattern, Positive
from router.terms import Name, OwnerName, Section, Share, Sources


class AnswerRuleSection(Section):
    """What is expected of answers on a route; `exact` or `regex`, one of them."""

    route: Name | None = Field(
        default=None, description="NAME of `auto:NAME`, `auto`, or the model that the client named; null is all."
    )
    tenants: frozenset[OwnerName] | None = Field(default=None, description="Tenants it holds for; null is all.")
    exact: str | None = Field(default=None, description="The answer, but for case and white space.")
    regex: Pattern | None = Field(
        default=None, description="An expression of Rust's regex, without look-around, found somewhere in the answer."
    )

    @model_validator(mode="after")
    def _one(self) -> AnswerRuleSection:
        if (self.exact is None) == (self.regex is None):
            raise ValueError("give exact or regex, one of them")
        return self


class JudgeSection(Section):
    """Models that judge a share of answers, at the expense of a tenant of yours."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="The first that did not give the answer itself and may see it judges."
    )
    key: SecretStr = Field(min_length=1, description="A key; its tenant pays, by its budgets: ${JUDGE_KEY}.")
    share: Share = Field(default=0.05, description="Of answers, in the mean; more where a verdict tells more.")
    mode: Literal["absolute", "pairwise"] = Field(
        default="absolute", description="pairwise also asks the best other model, and which answer is better."
    )
    rubric: str = Field(default="", description="What makes an answer good, in a sentence or two.")
    max_tokens: Positive = Field(default=16, description="Of a verdict; more for models that reason first.")


class LearningSection(Section):
    """What is learned of answers that no person judged."""

    sources: Sources = Field(
        default=("graders", "judge"),
        description="graders: tools, schemas and the rules below. signature: token probabilities, length, repetition "
        "and ending, once enough answers of a model were judged otherwise; asks engines for logprobs of plain answers. "
        "judge: the models below. Tenants, teams and keys may say otherwise: `learn_from`.",
    )
    rules: tuple[AnswerRuleSection, ...] = Field(default=(), description="What you expect of answers.")
    judge: JudgeSection | None = Field(default=None, description="Who judges; null is nobody.")
