"""An answer of chat completions as blocks, one after the other: reasoning, text, refusals and calls of tools.

Both protocols open a block, fill it and close it before the next one. Chat streams may interleave calls: what comes for
another block while a call is not whole is held until it is, or the stream ends. A call that never becomes whole is cut.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from backends.dialects.chat import calls_of, function_of, reasoning_of, text_of

Kind = Literal["reasoning", "text", "refusal", "call"]


@dataclass(eq=False, slots=True)
class Block:
    """One block, as far as it has come. `id` and `name` are a call's, `signature` is of reasoning."""

    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""
    signature: str = ""
    is_closed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether another block may follow: a call's arguments are one JSON object."""
        return self.kind != "call" or (self.text.rstrip().endswith("}") and self.arguments is not None)

    @property
    def is_cut(self) -> bool:
        """Whether it is a call that broke off in its arguments."""
        return bool(self.text.strip()) and not self.is_whole

    @property
    def arguments(self) -> dict[str, Any] | None:
        """Of a call; None where the model wrote no JSON object."""
        try:
            return msgspec.json.decode(self.text or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None


class BlockStep(NamedTuple):
    """What happens to a block: it is opened, gets more text, or is closed."""

    does: Literal["open", "more", "close"]
    block: Block
    text: str = ""


@dataclass(slots=True)
class Blocks:
    """The blocks of one answer; `done` are those that were opened, in order."""

    done: list[Block] = field(default_factory=list)
    _open: Block | None = None
    _held: list[Block] = field(default_factory=list)
    _calls: dict[int, Block] = field(default_factory=dict)

    def take(self, delta: Mapping[str, Any]) -> Iterator[BlockStep]:
        """The steps that one delta makes, or a whole message."""
        thoughts = delta.get("thinking_blocks")  # litellm's, where a provider signs them
        signed = thoughts if isinstance(thoughts, list) else []
        signatures = [each.get("signature") for each in signed if isinstance(each, Mapping)]
        if thought := reasoning_of(delta):
            yield from self._put(self._plain("reasoning"), thought)
        if signature := next((each for each in signatures if isinstance(each, str) and each), ""):
            self._plain("reasoning").signature = signature
        if text := text_of(delta):
            yield from self._put(self._plain("text"), text)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            yield from self._put(self._plain("refusal"), refusal)
        for call in calls_of(delta):
            yield from self._put(self._call(call), _arguments(call))

    def end(self) -> Iterator[BlockStep]:
        """The steps that are left when nothing more comes."""
        for call in self._calls.values():
            if not call.text.strip() and not call.is_closed:
                yield from self._put(call, "{}")  # a tool without parameters
        yield from self._advance(ended=True)
        if self._open is not None:
            yield self._close(self._open)

    def _plain(self, kind: Kind) -> Block:
        """The block that text of this kind goes on in: the latest, or a new one."""
        latest = self._held[-1] if self._held else self._open
        return latest if latest is not None and latest.kind == kind else Block(kind)

    def _call(self, call: Mapping[str, Any]) -> Block:
        """The block of a call. Engines number calls, or name them, or repeat a name in every piece."""
        name, call_id = str(function_of(call).get("name") or ""), str(call.get("id") or "")
        number, known = self._numbered(call, bool(name))
        if known is None or (name and call_id and known.id and call_id != known.id):
            known = self._calls[number] = Block("call", id=call_id, name=name)
        elif known is not self._open and not known.is_closed:
            known.id, known.name = known.id or call_id, known.name or name
        return known

    def _numbered(self, call: Mapping[str, Any], named: bool) -> tuple[int, Block | None]:
        number = call.get("index")
        if type(number) is not int:
            number = max(self._calls, default=-1) + (named or not self._calls)
        return number, self._calls.get(number)

    def _put(self, block: Block, text: str) -> Iterator[BlockStep]:
        if block.is_closed:
            return  # it was whole
        block.text += text
        if block is self._open:
            if text:
                yield BlockStep("more", block, text)
        elif block not in self._held:
            self._held.append(block)
        yield from self._advance()

    def _advance(self, *, ended: bool = False) -> Iterator[BlockStep]:
        while self._held and (ended or self._may_open(self._held[0])):
            if self._open is not None:
                yield self._close(self._open)
            block = self._open = self._held.pop(0)
            block.id = block.id or f"call_{secrets.token_hex(12)}"
            self.done.append(block)
            yield BlockStep("open", block)
            if block.text:
                yield BlockStep("more", block, block.text)

    def _may_open(self, block: Block) -> bool:
        named = block.kind != "call" or bool(block.name)
        return named and (self._open is None or self._open.is_whole)

    def _close(self, block: Block) -> BlockStep:
        block.is_closed, self._open = True, None
        return BlockStep("close", block)


def blocks_of(message: Mapping[str, Any]) -> list[Block]:
    """The blocks of a whole message."""
    blocks = Blocks()
    for _ in (*blocks.take(message), *blocks.end()):
        pass
    return blocks.done


def _arguments(call: Mapping[str, Any]) -> str:
    """As text; some engines write the object itself."""
    found = function_of(call).get("arguments")
    if isinstance(found, str) or found is None:
        return found or ""
    return msgspec.json.encode(found).decode()
