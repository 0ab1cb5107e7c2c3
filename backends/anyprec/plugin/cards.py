"""Lists a store's widths on its card in /v1/models, where a gateway finds them, and in /metrics what they served."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection
from typing import Any

from backends.anyprec.names import WIDTH_KEY
from backends.anyprec.plugin import served as served_rows

SERVER = "vllm.entrypoints.openai.models.serving"


def show_widths(bits: Collection[float]) -> None:
    """Add `anyprec_bits` to the cards of base models; nothing where no OpenAI server runs in this process."""
    if SERVER not in sys.modules:
        return
    served_rows.publish(bits)
    served: Any = sys.modules[SERVER].OpenAIServingModels
    show = getattr(served.show_available_models, "__wrapped__", served.show_available_models)

    @functools.wraps(show)
    async def show_available_models(self: Any) -> Any:
        listed = await show(self)
        for card in listed.data:
            if card.parent is None:
                setattr(card, WIDTH_KEY, sorted(bits))
        return listed

    served.show_available_models = show_available_models
