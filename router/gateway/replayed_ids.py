"""Ids of answers that are given again: each time another one, so that a judgement finds the answer it means. Pure."""

from __future__ import annotations

import re
import secrets


def fresh_id(known: str | None) -> str | None:
    """An id like this one."""
    head = re.match(r"[A-Za-z]*[-_]", known or "")
    return None if known is None else (head[0] if head is not None else "") + secrets.token_hex(12)


def renamed(block: bytes, old: str | None, new: str | None) -> bytes:
    """With one id in the place of another. A text that holds the same is left: its quotes are escaped."""
    if old is None or new is None or (was := old.encode()) not in block:
        return block
    fresh = new.encode()
    block = block.replace(b'"id":"%b"' % was, b'"id":"%b"' % fresh)
    return block.replace(b'"id": "%b"' % was, b'"id": "%b"' % fresh)
