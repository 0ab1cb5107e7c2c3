"""The sections of a settings file that say what turns a query into a vector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.settings.scalars import Positive, Secret, Url, is_private
from router.terms import Section


class _Embedder(Section):
    """What every embedder has."""

    cache: int = Field(default=10_000, ge=0, description="Texts whose embedding is kept.")


class HashingSection(_Embedder):
    """Hashed word and character n-grams: deterministic, no download."""

    kind: Literal["hashing"] = Field(
        default="hashing", description="hashing: n-grams hashed and projected; no download."
    )
    dim: int = Field(default=256, ge=16, le=4096, description="Dimensions.")


class StaticSection(_Embedder):
    """Static word vectors by model2vec; needs the extra `static`."""

    kind: Literal["static"] = Field(description="static: model2vec vectors.")
    model: str = Field(min_length=1, description="Folder or name of the model.")


class SentenceSection(_Embedder):
    """A sentence model by fastembed; needs the extra `sentence`."""

    kind: Literal["sentence"] = Field(description="sentence: a fastembed model.")
    model: str = Field(min_length=1, description="Name of the model.")


class OpenAIEmbedderSection(_Embedder):
    """Any /v1/embeddings endpoint."""

    kind: Literal["openai"] = Field(description="openai: any /v1/embeddings endpoint.")
    url: Url = Field(description="Base address, with or without /v1.")
    model: str = Field(min_length=1, description="Name of the model there.")
    api_key: Secret = Field(default=None, description="Sent as a bearer token.")
    dim: Positive = Field(description="Dimensions of its vectors.")
    batch: Positive = Field(default=32, description="Texts in one call, at most.")
    wait_ms: float = Field(default=2.0, ge=0, description="How long a text waits for company.")
    local: bool | None = Field(
        default=None,
        description="Whether it runs on machines of yours; by default true where its address is loopback, private or a "
        "name without a public domain. What is local_only is never sent to one that does not: its estimates rest on "
        "the models' means.",
    )

    @property
    def is_local(self) -> bool:
        return is_private(self.url) if self.local is None else self.local


Embedder = Annotated[
    HashingSection | StaticSection | SentenceSection | OpenAIEmbedderSection,
    Field(discriminator="kind", description=""),
]
