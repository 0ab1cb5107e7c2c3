"""The sections of a settings file, as frozen pydantic models; docs/settings.md is made from their descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from router.settings.price_sections import PriceSection
from router.settings.scalars import (
    Capability,
    Count,
    Dollars,
    Month,
    Positive,
    Seconds,
    Secret,
    Width,
)
from router.terms import BudgetTerms, KeyTerms, LimitTerms, Name, OwnerName, Section, Share, Terms
from router.wildcards import STAR, captured


class StoreSection(Section):
    """Where money, keys and the log live: SQLite on one machine, or Redis for many. At most one of the two is given."""

    sqlite: Path | None = Field(default=None, description="Database file; by default pointsman.db in state_dir.")
    redis: Secret = Field(
        default=None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// address, password included.",
    )
    prefix: Name = Field(
        default="pointsman", description="First part of every Redis key, and its hash tag: one slot of a cluster."
    )
    pool: Positive = Field(default=64, description="Redis connections of one worker, at most.")
    timeout_s: Seconds = Field(
        default=2.0, description="How long the store may take before requests are refused with 503."
    )
    accept_eviction: bool = Field(
        default=False,
        description="Start although Redis may evict what was spent: its maxmemory-policy is not noeviction.",
    )
    hold_ttl_s: Seconds = Field(default=30.0, description="Lease of a hold; renewed while the request lives.")
    log_entries: Positive = Field(
        default=1_000_000,
        description="Entries of the outcome log that are kept: two a request, and one for each judgement.",
    )
    audit_entries: Positive = Field(default=100_000, description="Entries of the audit log that are kept.")

    def sqlite_path(self, state_dir: Path) -> Path:
        """The database file, where Redis is not configured."""
        return self.sqlite or state_dir / "pointsman.db"


class Auth(Section):
    """Who may call."""

    required: bool = Field(default=True, description="False answers callers without a key as `tenant`.")
    tenant: Name = Field(default="default", description="Tenant of callers without a key, where keys are not required.")
    admin_key: Secret = Field(default=None, description="Key of the admin API; without one the admin API answers 403.")


class BudgetRules(Section):
    """What holds for every budget."""

    unbounded: Literal["hold_context", "refuse"] = Field(
        default="hold_context",
        description="Requests that add tokens nobody can foresee (follow-ups, stored prompts, documents, files) under "
        "a hard budget: hold the model's whole context, or refuse them. Hosted tools without a limit of calls are "
        "refused.",
    )
    when_short: Literal["answer", "refuse"] = Field(
        default="answer",
        description="Requests that are not worth what they take from a budget that is short: answer them by the "
        "cheapest model while it can be paid, or refuse them, so that others get a better one.",
    )


class ModelSection(Section):
    """One candidate."""

    name: Name = Field(
        description="What clients ask for and what the answer's `model` says. One `*` stands for anything: "
        "`openai/*` with the upstream `openai/*` is every model of that provider, for whoever names one."
    )
    backend: str | None = Field(
        default=None, description="Name of the backend; may be left out where there is only one."
    )
    upstream: Name | None = Field(default=None, description="The name the engine knows it by; by default `name`.")
    price: PriceSection | None = Field(
        default=None, description="List price; by default litellm's cost map (litellm only), then `default_price`."
    )
    context_tokens: Positive | None = Field(
        default=None, description="Prompt and completion together; by default what the engine reports, else 8192."
    )
    max_output_tokens: Positive | None = Field(
        default=None, description="Longest answer; by default the whole context."
    )
    unlisted_price: PriceSection | None = Field(
        default=None, description="Of a name under a wildcard that nothing else prices; by default `default_price`."
    )
    capabilities: frozenset[Capability] | None = Field(
        default=None,
        description="What it can do. By default what the kind of backend can, without vision and embeddings.",
    )
    lacks: frozenset[Name] | None = Field(
        default=None,
        description="What of a request it cannot do, so that `auto` asks others: tool_choice, json_schema, "
        "json_object, logprobs, logit_bias, seed, n, images, audio, files, reasoning, parallel_tool_calls, prefill, "
        "web_search. By default what litellm's cost map leaves out of what it says of the model.",
    )
    local: bool | None = Field(
        default=None, description="Served on machines of yours; by default the backend's `local`."
    )
    parent: Name | None = Field(default=None, description="The full-width model this one is a variant of.")
    bits: Width | None = Field(default=None, description="Bits a weight: 3, or 3.25 for a profile.")
    parameters: Count | None = Field(default=None, description="Number of weights: 7000000000 or '7B'.")
    family: Name | None = Field(default=None, description="What it and its siblings of other sizes are called: qwen2.")
    trained_tokens: Count | None = Field(default=None, description="Tokens it was trained on: '15T'.")
    released: Month | None = Field(default=None, description="Month in which it was published: '2024-07'.")
    quality: Share | None = Field(
        default=None, description="Mean quality measured elsewhere, 0 to 1: where estimates start."
    )
    bytes_per_token: float = Field(
        default=4.0, gt=0, description="Bytes of ordinary text a token covers; 1 for byte models."
    )
    extra_body: dict[str, Any] = Field(default={}, description="Merged into the body sent upstream, e.g. vllm_xargs.")
    defaults: dict[str, Any] = Field(
        default={}, description="Fields of a request where the client sets none, e.g. {temperature: 0.2}."
    )
    drop_fields: frozenset[Name] = Field(
        default=frozenset(), description="Fields of a request that this model does not get."
    )
    groups: frozenset[Name] = Field(
        default=frozenset(), description="Groups it is in: `allowed_models` may name a group for all its models."
    )
    limits: LimitTerms | None = Field(default=None, description="The model's own rate limits over all tenants.")
    capacity: BudgetTerms | None = Field(
        default=None, description="The model's own budget over all tenants, rolling, e.g. '20 USD per 1h'."
    )
    drain: bool = Field(default=False, description="True finishes what runs and takes no new requests.")

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for many models, each called by its own name."""
        return STAR in self.name and STAR in (self.upstream or self.name)

    def upstream_of(self, name: str) -> str:
        """What the engine calls the model that a client names under this wildcard."""
        return (self.upstream or self.name).replace(STAR, captured(self.name, name) or "")


class ModelBudget(Section):
    """A budget that several models share over all tenants."""

    budget: BudgetTerms = Field(description="What they may cost together, e.g. '20 USD per 1d'.")
    models: tuple[Name, ...] | None = Field(default=None, description="The models that share it; null is all.")


class Index(Section):
    """The nearest past queries."""

    k: Positive = Field(default=100, description="Neighbours looked up for each query.")
    graph_from: Positive = Field(default=2_000, description="Vectors from which on the index is an HNSW graph.")
    ef_search: Positive = Field(default=64, description="Width of the graph search.")
    build_threads: Positive = Field(
        default=1, description="Threads that build the graph, aside; more where cores are idle and the log is long."
    )
    snapshot_s: Seconds = Field(
        default=300.0, description="How often index and policy are saved with their log position."
    )


class PolicySection(Section):
    """Who decides."""

    name: str = Field(default="paced", description="Name of the default policy; a wrong one is answered with the list.")
    options: dict[str, dict[str, Any]] = Field(
        default={}, description="Options by policy name, e.g. {neighbours: {k: 40}}."
    )
    on_request: tuple[str, ...] = Field(
        default=("random", "cheapest", "best"),
        description="Policies that a request may name in `routing`, beside `name`, those with options and those of "
        "tenants and keys. Each policy that was once named is kept in memory and refitted.",
    )
    seed: int = Field(default=0, ge=0, description="Of the generator that draws from the policy's distribution.")

    def options_of(self, name: str) -> dict[str, Any]:
        """Options of one policy; empty where none are given."""
        return self.options.get(name, {})


class Preference(Section):
    """Quality against money; a plain number stands for `default`."""

    default: Share = Field(default=0.5, description="0 is the cheapest answer, 1 the best, for whoever sets none.")
    reference_usd: Dollars | None = Field(
        default=None,
        description="What a full point of quality on one request is worth at 0.5, in USD: by default 0.001, and "
        "0.00001 where only the packaged family is served, whose answers cost about a millionth of a dollar.",
    )

    @model_validator(mode="before")
    @classmethod
    def _number(cls, data: object) -> object:
        return data if isinstance(data, dict) else {"default": data}


class KeySection(KeyTerms):
    """One key from the settings file; keys made with `pointsman keys` live in the store instead."""

    secret: SecretStr = Field(min_length=1, description="The key itself; take it from the environment: ${ACME_KEY}.")

    @model_validator(mode="before")
    @classmethod
    def _secret_alone(cls, data: object) -> object:
        return {"secret": data} if isinstance(data, str) else data


class TenantSection(Terms):
    """A tenant that exists from the start."""

    teams: dict[OwnerName, Terms] = Field(default={}, description="Teams by name.")
    keys: tuple[KeySection, ...] = Field(
        default=(), description="Keys from this file; a secret alone is short for {secret: …}."
    )


class FeedbackSection(Section):
    """What POST /v1/feedback takes in."""

    per_key: Positive = Field(default=1_200, description="Judgements a minute of one key, in each worker.")
    per_tenant: Positive = Field(default=6_000, description="Judgements a minute of one tenant, in each worker.")
    credit: Share = Field(
        default=0.5,
        description="What of a person's judgement the turn before in its conversation gets, and so on; 0 is nothing.",
    )
    by_admins: bool = Field(
        default=False,
        description="True lets admin keys judge for the `tenant` they name; each judgement is in the audit log.",
    )


class Log(Section):
    """What the outcome log keeps of a query."""

    enabled: bool = Field(
        default=True, description="False embeds, remembers and learns nothing: the gateway only passes on and charges."
    )
    keep_text: bool = Field(default=False, description="Whether the query's text is kept, for evidence and for refits.")
    text_characters: Positive = Field(default=2_000, description="How many characters of it, at most.")
    keep_features: bool = Field(
        default=True,
        description="Keep how often each hashed n-gram occurs in a query, so that the embedder is fitted to what is "
        "asked; False leaves it the fixed sketch it begins with.",
    )
    feature_texts: Positive = Field(default=50_000, description="Queries of which these counts are kept, at most.")
    features_key: Secret = Field(
        default=None,
        description="What the n-grams are hashed with; by default a secret that is made once and kept in the store.",
    )


class Responses(Section):
    """Answers of the Responses API, kept so that clients can go on from them by `previous_response_id`."""

    keep: bool = Field(
        default=True, description="False keeps none; a client's `store: false` keeps its own answer out."
    )
    each: Positive = Field(default=1_000, description="Answers kept of one tenant; the oldest go.")
    days: Positive = Field(default=30, description="How long they are kept.")
    key: Secret = Field(
        default=None,
        description="Encrypts what is kept, and what `cache` stores; a Fernet key: 32 bytes in URL-safe base64. "
        "Needs the extra `encryption`.",
    )


class Admission(Section):
    """What a compressed variant must show, by `pointsman admit`, before it may receive traffic."""

    required: bool = Field(default=True, description="False lets variants without a verdict serve.")
    max_loss: Share = Field(
        default=0.1,
        description="Points of quality a variant may lose against its parent: lower end of the 95 % interval.",
    )
    max_slowdown: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.5, description="Latency of the variant over its parent's, at most."
    )
    max_refusal_fall: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.05,
        description="Share of harmful prompts that it may decline less than its parent: one-sided bound of 95 %.",
    )
    max_refusal_rise: Share = Field(
        default=0.0,
        description="Share of harmless prompts that it may decline more: lower end of the 95 % interval.",
    )


class Reload(Section):
    """Settings taken up while running: on SIGHUP always."""

    watch: bool = Field(default=True, description="Whether a changed file is taken up by itself.")
    every_s: Seconds = Field(default=2.0, description="How often the file is looked at.")
