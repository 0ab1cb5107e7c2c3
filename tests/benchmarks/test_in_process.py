"""The cost of a request in process: three figures, and no figure of requests that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gateway, in_process
from benchmarks.settings import full_settings

NAMES = ["pass_through_us", "repeated_us", "never_seen_us"]


def test_the_three_figures_come_from_requests_that_the_gateway_answers_without_a_socket(tmp_path: Path) -> None:
    figures = in_process.measure(tmp_path, batches=2, vectors=200)
    assert list(figures) == NAMES
    assert all(figure > 0 for figure in figures.values())


def test_what_traces_cost_that_record_nothing_is_beside_what_a_request_costs_without_them(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")
    figures = in_process.sampled_out(tmp_path, batches=2)
    assert list(figures) == [
        "without_traces_us",
        "sampled_out_us",
        "clients_trace_without_traces_us",
        "clients_trace_sampled_out_us",
    ]
    assert all(figure > 0 for figure in figures.values())


def test_the_table_of_traces_says_how_much_more_and_goes_into_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"a_us": 100.0, "b_us": 104.0, "c_us": 200.0, "d_us": 210.0}
    monkeypatch.setattr(in_process, "sampled_out", lambda folder: figures)
    page = tmp_path / "page.md"
    page.write_text("<!-- traces: made by a command -->\n<!-- end of traces -->\n")
    gateway.main(["--only", "traces", "--write", str(page)])
    table = in_process.sampled_out_table(figures)
    assert "| begins none | 100.0 | 104.0 | +4.0 | 1.040 |" in table
    assert "| says that it is not recorded | 200.0 | 210.0 | +10.0 | 1.050 |" in table
    assert "\n".join(table) in page.read_text()
    assert "\n".join(table) in capsys.readouterr().out


def test_only_the_table_of_traces_goes_into_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gateway.main(["--only", "mock", "--write", str(tmp_path / "page.md")])
    assert "--write goes with --only traces" in capsys.readouterr().err


def test_a_request_that_fails_ends_the_run_with_the_gateways_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "_ANSWER", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    settings = full_settings(in_process.ENGINE, tmp_path, 0)
    with (
        pytest.raises(SystemExit, match=r"answered HTTP/1\.1 50"),
        in_process.stubbed(tmp_path, settings) as run,
    ):
        run(in_process.messages(1))


def test_json_is_one_object_with_exactly_these_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(in_process, "measure", lambda folder: dict.fromkeys(NAMES, 1.5))
    gateway.main(["--only", "inprocess", "--json"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed == dict.fromkeys(NAMES, 1.5)


def test_json_of_other_parts_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gateway.main(["--only", "mock", "--json"])
    assert "--json goes with --only inprocess" in capsys.readouterr().err
