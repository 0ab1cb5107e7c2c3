"""Fractional widths of a store: a profile gives every linear layer one of the store's widths, and has their mean.

A profile is DIR/profiles/3.25bit.json. It bears the digest of the store it was made for and its own. Fails with Corrupt
where a profile was edited, and with Unsupported where one belongs to another store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.anyprec.checkpoint import read_json
from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.names import WidthName, width_of

FOLDER = "profiles"
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
FORMAT, VERSION = "anyprec profile", 1


@dataclass(frozen=True, slots=True)
class Profile:
    """A width for every linear layer."""

    bits: float  # its name: at most so many bits a weight
    mean_bits: float  # what the widths come to
    widths: Mapping[str, int]  # layer -> one of the store's widths
    distance: float | None = None  # from the widest on calibration text, in [0, 1]: total variation of the next token


def file_of(folder: Path, bits: float) -> Path:
    """Where a store's profile of this many bits lies."""
    return folder / FOLDER / f"{WidthName('', bits).width}.json"


def write_profile(profile: Profile, folder: Path, config: Mapping[str, Any]) -> Path:
    """Put a profile into the folder of its store, in the place of an earlier one. Raises: OSError."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "store": _digest_of_store(config),
        "bits": profile.bits,
        "mean_bits": round(profile.mean_bits, 6),
        "distance": None if profile.distance is None else round(profile.distance, 6),
        "widths": dict(profile.widths),
    }
    file = file_of(folder, profile.bits)
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1))
    partial.rename(file)
    return file


def read_profiles(folder: Path, config: Mapping[str, Any]) -> tuple[Profile, ...]:
    """Every profile in a store's folder, the narrowest first. Raises: Corrupt, Unsupported, naming the file."""
    files = sorted((folder / FOLDER).glob("*.json"))
    return tuple(sorted((_read(file, config) for file in files), key=lambda profile: profile.bits))


def _read(file: Path, config: Mapping[str, Any]) -> Profile:
    content = read_json(file)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise Unsupported(f"{file} is no {FORMAT} of version {VERSION}")
    if _digest({key: value for key, value in content.items() if key != "sha256"}) != content.get("sha256"):
        raise Corrupt(f"{file} was edited after it was written")
    if content["store"] != _digest_of_store(config):
        raise Unsupported(f"{file} is a profile of another store; make one for this store with `pointsman profile`")
    bits = width_of(content["bits"])
    if bits is None or file.name != file_of(Path(), bits).name:
        raise Unsupported(f"{file} holds a profile of {content['bits']} bits")
    return Profile(bits, content["mean_bits"], content["widths"], content.get("distance"))


def layer_widths(layer: str, bits: Iterable[int], profiles: Iterable[Profile]) -> dict[float, int]:
    """The stored width at which this layer is read for every width that can be asked for."""
    return {**{k: k for k in bits}, **{profile.bits: profile.widths[layer] for profile in profiles}}


def part_widths(prefix: str, bits: Collection[int], profiles: Collection[Profile]) -> list[dict[float, int]]:
    """`layer_widths` of every layer that an engine fuses into `prefix`, in its order: q, k and v in qkv_proj."""
    at, _, name = prefix.rpartition(".")
    return [layer_widths(f"{at}.{each}", bits, profiles) for each in FUSED.get(name, (name,))]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_store(config: Mapping[str, Any]) -> str:
    """Of its files: what is measured of a store and written into its config does not make it another one."""
    return _digest(config["quantization_config"]["checksums"])
