"""The sections of a settings file about what answers: backends of every kind, their replicas, time-outs and prices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from router.settings.price_sections import PriceSection
from router.settings.scalars import Dollars, Positive, Seconds, Secret, Url, is_private
from router.terms import Name, Section
from router.types import Price


class Timeouts(Section):
    """How long a backend may take. Zero is not allowed: nothing waits for ever."""

    connect_s: Seconds = Field(default=5.0, description="To connect.")
    first_byte_s: Seconds = Field(default=120.0, description="From the request to the first event of the answer.")
    idle_s: Seconds = Field(default=60.0, description="Without an event within an answer; comments are none.")


class BreakerSection(Section):
    """When a failing backend is left alone."""

    failures: Positive = Field(
        default=5, description="Failures in a row that open the breaker, as ten of the last twenty do."
    )
    open_s: Seconds = Field(
        default=10.0,
        description="How long it stays open before one probe; doubled by each that fails, up to ten minutes.",
    )


class ReplicaSection(Section):
    """One server of a backend; a plain address may stand for it."""

    url: Url | None = Field(default=None, description="Base address, with or without /v1.")
    api_key: Secret = Field(default=None, description="Sent as a bearer token; by default the backend's own.")
    upstream: Name | None = Field(default=None, description="The model's name at this server, where it differs.")
    price: PriceSection | None = Field(
        default=None,
        description="What an answer of this server costs, where it differs; a hold covers the most expensive.",
    )
    context_tokens: Positive | None = Field(
        default=None, description="Prompt and completion together at this server, where it differs."
    )
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="Its share of the requests beside its siblings."
    )
    order: Positive = Field(
        default=1, description="Servers of a higher order are asked where none of a lower one can answer."
    )
    tags: frozenset[str] | None = Field(
        default=None,
        description="Requests with one of these tags come here; `default` takes what no server has a tag for. Tags are "
        "in `metadata.tags` and `tags` of a request, its header x-litellm-tags, and `tags` in the metadata of its key.",
    )
    params: dict[str, Any] = Field(
        default={}, description="Passed to litellm as they are, e.g. api_version, aws_region_name."
    )

    @model_validator(mode="before")
    @classmethod
    def _address(cls, data: object) -> object:
        return {"url": data} if isinstance(data, str) else data


class _Backend(Section):
    """What every kind of backend has."""

    breaker: BreakerSection = Field(default=BreakerSection(), description="When it is left alone.")
    max_concurrency: Positive | None = Field(
        default=None, description="Requests at once to one replica; null is no cap."
    )
    attempts: Positive = Field(
        default=2, description="Tries of one request, over replicas, before another model is drawn."
    )
    machine_usd_per_hour: Dollars | None = Field(
        default=None,
        description="What one replica's machine costs, in USD an hour, all its accelerators together. Given, routing "
        "weighs this backend's models by what their tokens are measured to cost; tenants pay list prices all the same.",
    )
    local: bool | None = Field(
        default=None,
        description="Whether it runs on machines of yours (for local_only). By default true for embedded and scripted, "
        "false for litellm; for vllm true where every address is loopback, private or a name without a public domain.",
    )

    @property
    def is_local(self) -> bool:
        """`local` if given, else true: the engine lives in this process."""
        return True if self.local is None else self.local

    @property
    def discovers(self) -> bool:
        """Whether candidates come from the backend itself."""
        return False

    @property
    def engines(self) -> int:
        """How many machines serve it."""
        return 1


class _Remote(_Backend):
    """What backends behind the network have."""

    timeouts: Timeouts = Field(default=Timeouts(), description="How long it may take.")
    url: Url | None = Field(default=None, description="Base address of the only replica.")
    urls: tuple[ReplicaSection, ...] = Field(
        default=(), description="Several replicas of the same models: addresses or mappings."
    )
    api_key: Secret = Field(default=None, description="Key of every replica that names none of its own.")
    params: dict[str, Any] = Field(default={}, description="litellm only: parameters of every call, e.g. api_version.")

    @property
    def replicas(self) -> tuple[ReplicaSection, ...]:
        """Every replica with the backend's key and parameters filled in."""
        own = (ReplicaSection(url=self.url),) if self.url or not self.urls else ()
        return tuple(
            each.model_copy(
                update={"api_key": each.api_key or self.api_key, "params": {**self.params, **each.params}},
            )
            for each in (*own, *self.urls)
        )

    def labelled(self, name: str) -> tuple[tuple[str, ReplicaSection], ...]:
        """Every replica by the name of its engine in the pool: its address where that is its own, else a number."""
        replicas = self.replicas
        addresses = [each.url for each in replicas]
        return tuple(
            (each.url if each.url and addresses.count(each.url) == 1 else f"{name}/{number}", each)
            for number, each in enumerate(replicas)
        )

    @property
    def engines(self) -> int:
        return max(1, len(self.replicas))

    def replica_prices(self, name: str) -> dict[str, Price]:
        """Of the engines that have prices of their own."""
        return {label: each.price.price() for label, each in self.labelled(name) if each.price is not None}

    @property
    def tags(self) -> tuple[frozenset[str], ...]:
        """Of each server, where any of them looks at tags."""
        each = [replica.tags for replica in self.replicas]
        return tuple(tags or frozenset() for tags in each) if any(tags is not None for tags in each) else ()


class VllmSection(_Remote):
    """vLLM, or any other server that speaks OpenAI's API."""

    kind: Literal["vllm"] = Field(description="vllm: any OpenAI-compatible server.")
    discover: bool = Field(
        default=False, description="Add the models its /v1/models lists, adapters and widths included."
    )
    headers: dict[str, SecretStr] = Field(default={}, description="Sent with every request.")

    @property
    def is_local(self) -> bool:
        if self.local is not None:
            return self.local
        return all(is_private(each.url or "") for each in self.replicas)

    @property
    def discovers(self) -> bool:
        return self.discover


class LitellmSection(_Remote):
    """Any provider litellm knows; needs the extra `providers`."""

    kind: Literal["litellm"] = Field(description="litellm: any provider litellm's SDK knows.")

    @property
    def is_local(self) -> bool:
        return bool(self.local)


class EmbeddedSection(_Backend):
    """The any-precision engine inside the gateway: no GPU, no download."""

    kind: Literal["embedded"] = Field(description="embedded: an any-precision store run by numpy in this process.")
    stores: dict[Name, Path] = Field(
        default={}, description="Folders of stores by model name; by default the packaged family."
    )
    discover: bool = Field(default=True, description="Make every model and width of the store a candidate.")
    queue: Positive = Field(default=64, description="Requests that may wait; more are refused as overloaded.")

    @property
    def discovers(self) -> bool:
        return self.discover


class ScriptedSection(_Backend):
    """Answers from a script: for trying things out."""

    kind: Literal["scripted"] = Field(description="scripted: a fixed answer, for trying things out.")
    text: str = Field(default="This is a scripted answer.", description="What it answers.")


Backend = Annotated[
    VllmSection | LitellmSection | EmbeddedSection | ScriptedSection, Field(discriminator="kind", description="")
]
