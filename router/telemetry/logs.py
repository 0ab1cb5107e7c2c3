"""The program's log and a line for each request: JSON for machines, plain text for people at a terminal.

A request's line holds who asked and what came of it, never a secret, a prompt or an answer. Requests put themselves
into a queue; the lines are written beside them, some at once. Those of the last moment before a kill are lost.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from router.gateway.types import ServedRequest
from router.types import show_usd

LOG = logging.getLogger("pointsman.requests")
WRITE_EVERY_S = 0.2
MOST_WAITING = 100_000  # requests without a line yet; then the oldest have none
MOST_CHARACTERS = 200  # of what a client may choose itself
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
AT_ONCE = 200  # lines; then whoever else waits for the loop has it
_LINES = "pointsman_lines"  # attribute of a log record that holds requests' lines


def configure(level: str, form: str) -> None:
    """Send everything that is logged to standard error; `form` is "json", "text" or "auto"."""
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines() if is_text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    LOG.setLevel(logging.INFO)  # asked for by a setting of its own


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        lines: Sequence[Mapping[str, Any]] | None = getattr(record, _LINES, None)
        return "\n".join([msgspec.json.encode(line).decode() for line in lines or [self._plain(record)]])

    def _plain(self, record: logging.LogRecord) -> dict[str, Any]:
        line = {"time": _time(record.created), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return line


class TextLines(logging.Formatter):
    """What a person reads."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        lines: Sequence[Mapping[str, Any]] | None = getattr(record, _LINES, None)
        return super().format(record) if lines is None else "\n".join([text_of_line(line) for line in lines])


class RequestLines:
    """Writes a line for each request that is over."""

    def __init__(self) -> None:
        self.waiting: deque[ServedRequest] = deque(maxlen=MOST_WAITING)

    async def run(self) -> None:
        """Until it is cancelled, and then what is left."""
        try:
            while True:
                has_more = self.write()
                await asyncio.sleep(0 if has_more else WRITE_EVERY_S)
        finally:
            while self.write():
                pass

    def write(self) -> bool:
        """Some of those that wait; whether there may be more."""
        lines = [line_of(self.waiting.popleft()) for _ in range(min(AT_ONCE, len(self.waiting)))]
        if lines:
            LOG.info("requests", extra={_LINES: lines})
        return len(lines) == AT_ONCE


def line_of(request: ServedRequest) -> dict[str, Any]:
    """What a request's line says. Raises: nothing."""
    decision, spend, principal = request.decision, request.spend, request.principal
    line: dict[str, Any] = {
        "time": _time(request.at),
        "level": "info" if request.status < 500 else "error",
        "event": "request",
        "request_id": request.request_id[:MOST_CHARACTERS],
        "method": request.method,
        "path": request.path[:MOST_CHARACTERS],
        "status": request.status,
        "reason": request.reason,
        "ms": round(request.seconds * 1000, 3),
    }
    if principal is not None:
        line |= {"tenant": principal.tenant, "team": principal.team, "key": principal.key_id}
    if request.asked_for is not None:
        line["asked_for"] = request.asked_for[:MOST_CHARACTERS]
    if request.overhead_s is not None:
        line["overhead_ms"] = round(request.overhead_s * 1000, 3)
    if decision is not None:
        record = decision.record
        line |= {"model": record.model, "policy": record.policy, "decision_id": record.decision_id}
        line["stream"] = request.stream
        line["stages_ms"] = {stage: round(seconds * 1000, 3) for stage, seconds in request.timings.items()}
    if spend is not None:
        line["tokens"] = {"prompt": spend.prompt_tokens, "completion": spend.completion_tokens, **spend.parts.counts}
        line["cost_usd"] = msgspec.Raw(show_usd(spend.cost).encode())
        line["estimated"] = spend.estimated
    return line


def text_of_line(line: Mapping[str, Any]) -> str:
    """The line as a person reads it."""
    parts = [line["time"][11:19], str(line["status"]), line["method"], _printable(line["path"])]
    if line["reason"] != "ok":
        parts.append(line["reason"])
    if "model" in line:
        asked = _printable(line.get("asked_for", "auto"))
        parts.append(line["model"] if asked == line["model"] else f"{asked} → {line['model']}")
    if "tokens" in line:
        tokens = line["tokens"]
        parts += [f"{tokens['prompt']}+{tokens['completion']} tokens", f"{bytes(line['cost_usd']).decode()} USD"]
    parts.append(f"{line['ms']:.0f} ms")
    parts += [str(line["tenant"])] if "tenant" in line else []
    return "  ".join([*parts, _printable(line["request_id"])])


def _printable(text: str) -> str:
    """What a client chose, without what would move the cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
