"""Sends spans to a collector by OTLP over HTTP; needs the extra `otel`. A collector that is away costs spans alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Tracer

from router.settings import Settings
from router.settings.engine_sections import LitellmSection
from router.settings.telemetry_section import Traces
from router.types import Model

FLUSH_MS = 3_000  # at the end


@asynccontextmanager
async def open_tracer(traces: Traces, version: str, exporter: SpanExporter | None = None) -> AsyncIterator[Tracer]:
    """A tracer, and what it made sent before it closes. `exporter` stands for the collector.

    It records all that begins here: `router.http.tracing` has drawn before whether it is asked at all.
    """
    resource = Resource.create(
        {"service.name": os.environ.get("OTEL_SERVICE_NAME", "pointsman"), "service.version": version}
    )
    provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or _collector(traces)))
    try:
        yield provider.get_tracer("pointsman", version)
    finally:
        await asyncio.to_thread(_close, provider)


def _close(provider: TracerProvider) -> None:
    provider.force_flush(FLUSH_MS)
    provider.shutdown()


def _collector(traces: Traces) -> SpanExporter:
    """Where the settings say, else where OTEL_EXPORTER_OTLP_ENDPOINT does, else on this machine."""
    more: dict[str, Any] = {}
    if traces.endpoint is not None:
        more["endpoint"] = f"{traces.endpoint.rstrip('/')}/v1/traces"
    if traces.headers is not None:
        pairs = (each.partition("=") for each in traces.headers.get_secret_value().split(","))
        more["headers"] = {name.strip(): value.strip() for name, _, value in pairs}
    exporter: SpanExporter = OTLPSpanExporter(**more)
    return exporter


def providers_of(settings: Callable[[], Settings]) -> Callable[[Model], str]:
    """gen_ai.provider.name of a model: what litellm calls its provider, or the kind of its backend."""

    def provider_of(model: Model) -> str:
        section = settings().backends.get(model.backend)
        if isinstance(section, LitellmSection):
            return model.upstream.partition("/")[0] if "/" in model.upstream else "openai"
        return section.kind if section is not None else model.backend

    return provider_of
