"""Which code made a figure, and on what: the line below a table that a command writes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of the working tree, with "-dirty" where files differ from it; "unknown" without git."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def machine() -> str:
    """Cores and processor."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return f"{os.cpu_count()} cores, {named.group(1) if named else 'a processor without a name'}"


def provenance() -> str:
    """One line for a page."""
    return f"Made by commit {commit()} on {machine()}."
