"""The bill of materials of an installed Pointsman, as CycloneDX 1.5: python deploy/sbom.py > sbom.json

It lists the distributions that are installed here and that Pointsman needs, with their versions and licences, and who
needs whom. A distribution that is needed and not installed stops it with its name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

ROOT = "pointsman"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(found: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Names and extras of what a distribution needs here."""
    from packaging.requirements import Requirement  # noqa: PLC0415  (pip brings it where it is not installed)

    for line in found.requires or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in (extras or {""})]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments):
            yield normalized(requirement.name), frozenset(requirement.extras)


def closure(root: str) -> tuple[dict[str, Distribution], dict[str, set[str]]]:
    """Every distribution by name, and the names each needs. Raises: SystemExit where one is missing."""
    found: dict[str, Distribution] = {}
    edges: dict[str, set[str]] = {}
    waiting, seen = [(root, frozenset[str]())], set[tuple[str, frozenset[str]]]()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is needed and not installed") from None
        needs = list(needed(found[name], extras))
        edges.setdefault(name, set()).update(other for other, _ in needs)
        waiting += needs
    return found, edges


def purl(name: str, version: str) -> str:
    """The package URL of a distribution."""
    return f"pkg:pypi/{name}@{version}"


def component(name: str, found: Distribution) -> dict[str, object]:
    """One entry of the bill."""
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    made: dict[str, object] = {"type": "library", "name": name, "version": found.version}
    made |= {"bom-ref": purl(name, found.version), "purl": purl(name, found.version)}
    if licence and "\n" not in licence:
        made["licenses"] = [{"license": {"name": licence[:200]}}]
    return made


def bill(root: str = ROOT) -> dict[str, object]:
    """The whole bill, in one order whatever was installed first."""
    found, edges = closure(root)
    refs = {name: purl(name, each.version) for name, each in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(root, found[root]) | {"type": "application"}},
        "components": [component(name, each) for name, each in sorted(found.items()) if name != root],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(refs[other] for other in edges[name])} for name in sorted(found)
        ],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=2)
