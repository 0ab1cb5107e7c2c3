"""The section of a settings file that says what operators see."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.settings.scalars import Secret, Url
from router.terms import Section, Share


class Traces(Section):
    """Spans for OpenTelemetry, by OTLP over HTTP; needs the extra `otel`."""

    endpoint: Url | None = Field(
        default=None,
        description="Base address of a collector; by default OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318.",
    )
    headers: Secret = Field(default=None, description="Sent to it, as `name=value,name=value`.")
    share: Share = Field(
        default=1.0, description="Of requests whose client says nothing of a trace; the others follow their client."
    )


class Telemetry(Section):
    """What operators see."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Of the program's own log.")
    format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="Of all that is logged: a JSON object a line, plain text, or plain text where standard error "
        "is a terminal and JSON elsewhere.",
    )
    access_log: bool = Field(
        default=True,
        description="A line for each request, refusals too, but for health checks, readiness and metrics that succeed.",
    )
    traces: Traces | None = Field(default=None, description="Spans of each request; null sends none.")
    open_to: Literal["loopback", "nobody", "everyone"] = Field(
        default="loopback",
        description="Who sees /metrics, /docs and the schema without a key: requests from this machine that no proxy "
        "passed on, nobody, or everyone. Admin keys always do.",
    )
    key: Secret = Field(default=None, description="A key for these alone, e.g. Prometheus's.")
    listen: Annotated[str, Field(pattern=r"^[^\s]+:\d{1,5}$")] | None = Field(
        default=None,
        description="HOST:PORT that serves /metrics, /health and /ready without a key, for a network that keeps others "
        "away, e.g. 0.0.0.0:9090 behind a NetworkPolicy.",
    )
