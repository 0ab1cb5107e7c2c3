"""Figures of a replay: the cost–quality frontier and spend against time, as PNG and SVG; needs the extra `replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.replay import ReplayReport, as_json
from policies.replay import upper_hull
from router.errors import SettingsError
from router.settings.extras import install_line


def write_report(report: ReplayReport, folder: Path) -> list[Path]:
    """report.json, frontier.{png,svg} and spend.{png,svg}; the paths written. Raises: SettingsError, OSError."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra: only replays draw
    except ImportError as error:
        raise SettingsError(f"figures need the extra `replay`: {install_line(['replay'])}") from error
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.json"]
    written[0].write_text(json.dumps(as_json(report), indent=2))
    for name, draw in (("frontier", _draw_frontier), ("spend", _draw_spending)):
        figure = Figure(figsize=(8, 5), layout="constrained")
        draw(figure.subplots(), report)
        for suffix in ("png", "svg"):
            written.append(folder / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=150)
    return written


def _draw_frontier(axes: Any, report: ReplayReport) -> None:
    for label, frontier in report.frontiers.items():
        hull = upper_hull(frontier)
        axes.plot(hull.costs, hull.qualities, marker="o", markersize=3, label=label)
    axes.set(xscale="log", xlabel="mean cost of an answer, USD", ylabel="mean quality", title=report.trace)
    axes.legend()


def _draw_spending(axes: Any, report: ReplayReport) -> None:
    for label, spent in report.spending.curves.items():
        axes.plot(np.arange(1, len(spent) + 1), spent, label=label)
    axes.axhline(report.spending.budget, linestyle="--", color="black", label="budget")
    axes.set(xlabel="queries", ylabel="spent, USD", title=report.trace)
    axes.legend()
