"""Anthropic's Messages and OpenAI's Responses for models that only speak chat completions.

A request is turned into a chat request before it is sent, an answer back into the caller's own protocol: whole, or
event by event. How it fails: what chat completions cannot say is refused with Untranslatable, which names the field.
"""

from backends.dialects import messages, responses
from backends.dialects.over_chat import send_over_chat
from backends.dialects.types import Dialect, Untranslatable

DIALECTS: dict[str, Dialect] = {"/v1/messages": messages.MESSAGES, "/v1/responses": responses.RESPONSES}

CLAUDE = messages.CLAUDE
"""Messages for a Claude whose chat completions, as litellm speaks them, keep all that is Claude's own."""

ABILITIES = {"/v1/messages": "messages", "/v1/responses": "responses"}
"""What an engine can that speaks the protocol of a path itself."""

__all__ = ["ABILITIES", "CLAUDE", "DIALECTS", "Dialect", "Untranslatable", "send_over_chat"]
