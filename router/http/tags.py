"""The tags of a request, by which some models choose among their servers. What is no text is no tag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import msgspec

TAGS = b"x-litellm-tags"
MOST_TAGS = 64
FIELDS = frozenset({"metadata", "litellm_metadata", "tags"})


def tags_of(fields: Mapping[str, msgspec.Raw], header: bytes | None, owner: Mapping[str, str]) -> frozenset[str]:
    """Of the body's fields, of the header, and of the metadata of the key, its team and its tenant."""
    found = [*_of_fields(fields), *(header or b"").decode("latin-1").split(","), *_of_owner(owner.get("tags", ""))]
    return frozenset([tag.strip() for tag in found if tag.strip()][:MOST_TAGS])


def untagged(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The fields without lists of tags, which are for the gateway: providers refuse them."""
    kept = dict(fields)
    for name in FIELDS & fields.keys():
        value = _read(fields[name])
        if name == "tags" and isinstance(value, list):
            del kept[name]
        elif isinstance(value, dict) and isinstance(value.get("tags"), list):
            rest = {key: each for key, each in value.items() if key != "tags"}
            kept |= {name: msgspec.Raw(msgspec.json.encode(rest))}
            if not rest:
                del kept[name]
    return kept


def _read(field: msgspec.Raw) -> object:
    """What a field holds; None where it is a number beyond all, or nested beyond reading."""
    try:
        found: object = msgspec.json.decode(field)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found


def _of_fields(fields: Mapping[str, msgspec.Raw]) -> Iterator[str]:
    for name in FIELDS & fields.keys():
        value = _read(fields[name])
        yield from _texts(value if name == "tags" else value.get("tags") if isinstance(value, dict) else None)


def _of_owner(written: str) -> Iterator[str]:
    """Metadata is text: a list as JSON, or tags between commas."""
    try:
        yield from _texts(json.loads(written))
    except ValueError:
        yield from written.split(",")


def _texts(value: object) -> Iterator[str]:
    yield from (each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
