"""Whether requests are told to OpenTelemetry: nothing of it is imported, nor costs anything, where they are not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Any

from router.errors import SettingsError
from router.gateway.serving import Gateway
from router.settings import Settings
from router.settings.extras import install_line


async def conductor(
    settings: Settings, stack: AsyncExitStack, spans: Any, now: Callable[[], Settings]
) -> tuple[Any, Callable[..., Gateway]]:
    """A tracer or None, and what makes the gateway. `spans` is an exporter in the place of the collector, `now` the
    settings after every reload. Raises: SettingsError without the extra."""
    traces = settings.telemetry.traces
    if traces is None:
        return None, Gateway
    try:
        from router.gateway.traced import TracedGateway  # noqa: PLC0415
        from router.telemetry.otlp import open_tracer, providers_of  # noqa: PLC0415
    except ImportError:
        message = f"telemetry.traces needs the extra `otel`: {install_line(['otel'])}"
        raise SettingsError(message, param="telemetry.traces") from None
    tracer = await stack.enter_async_context(open_tracer(traces, version("pointsman"), spans))
    return tracer, partial(TracedGateway, providers_of(now))
