"""`pointsman replay` on small traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli import main
from evaluation.replay import BASELINES, OPTIMA, Setting, contender, replay
from evaluation.traces import read_trace
from router.errors import SettingsError
from router.settings.loading import load

WORDS = ("river", "matrix", "poem", "budget", "proof", "recipe", "python", "law")


def make_table(rows: int = 160) -> pd.DataFrame:
    """Two subjects; the small model is good at one of them, the large one at both."""
    rng = np.random.default_rng(5)
    hard = rng.random(rows) < 0.5
    prompts = [
        f"{'prove that' if each else 'translate'} {' '.join(rng.choice(WORDS, 6))} number {i}"
        for i, each in enumerate(hard)
    ]
    return pd.DataFrame(
        {
            "prompt": prompts,
            "task": np.where(hard, "proofs", "words"),
            "score:small": (rng.random(rows) < np.where(hard, 0.2, 0.85)).astype(float),
            "score:large": (rng.random(rows) < 0.9).astype(float),
            "cost:small": rng.uniform(0.8e-5, 1.2e-5, rows),
            "cost:large": rng.uniform(0.8e-4, 1.2e-4, rows),
        }
    )


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "toy.parquet"
    make_table().to_parquet(path)
    return path


def test_the_three_formats_are_read_alike(parquet: Path, tmp_path: Path) -> None:
    table = make_table()
    table.to_csv(tmp_path / "toy.csv", index=False)
    bench = table.rename(columns={"score:small": "small", "score:large": "large", "task": "eval_name"})
    bench.columns = [f"{c[5:]}|total_cost" if c.startswith("cost:") else c for c in bench.columns]
    bench.to_pickle(tmp_path / "toy.pkl")
    first = read_trace(parquet)
    for other in (read_trace(tmp_path / "toy.csv"), read_trace(tmp_path / "toy.pkl")):
        assert other.models == first.models == ("small", "large")
        assert other.prompts == first.prompts
        np.testing.assert_allclose(other.scores, first.scores)
        np.testing.assert_allclose(other.costs, first.costs)
        assert list(other.tasks) == list(first.tasks)


def test_a_trace_without_a_cost_is_refused_by_its_column(tmp_path: Path) -> None:
    make_table().drop(columns="cost:large").to_csv(tmp_path / "toy.csv")
    with pytest.raises(SettingsError, match="lacks the columns cost:large"):
        read_trace(tmp_path / "toy.csv")


def test_a_missing_trace_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no trace .*nothing\.csv"):
        read_trace(tmp_path / "nothing.csv")


def write_changed(tmp_path: Path, **columns: object) -> Path:
    make_table().assign(**columns).to_csv(tmp_path / "toy.csv", index=False)
    return tmp_path / "toy.csv"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("score:small", 7.0, r"column score:small, row 0: 7, expected a score in \[0, 1\]"),
        ("score:small", -0.1, r"row 0: -0.1, expected a score"),
        ("cost:large", -1.0, r"column cost:large, row 0: -1, expected USD of at least zero"),
        ("cost:large", np.inf, r"row 0: inf, expected USD"),
        ("score:large", "good", r"column score:large: .*'good', expected numbers"),
        ("prompt", np.nan, r"has no row with a prompt"),
        ("cost:small", np.nan, r"has no row with a prompt and every model's score and cost"),
    ],
)
def test_cells_that_make_no_sense_are_refused_by_their_column(
    column: str, value: object, said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=said):
        read_trace(write_changed(tmp_path, **{column: value}))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "pkl"])
def test_a_file_that_is_not_what_it_says_is_refused(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"toy.{suffix}"
    path.write_bytes(b"\x00hello\xff")
    assert main(["replay", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: [unclosed", "is no YAML"),
        ("policy: {name: neighbours, options: {neighbours: 3}}", "options is 3"),
        ("policy: {name: neighbours, options: {neighbours: {kk: 3}}}", "no option 'kk'"),
        ("policy: {name: neighbours, options: {neighbours: {k: 0}}}", "k is 0"),
        ("policy: {name: fixed, options: {fixed: {arm: nobody}}}", "fixed to 'nobody'; there are small, large"),
    ],
)
def test_a_policy_file_that_does_not_fit_is_refused_before_anything_is_embedded(
    text: str, said: str, parquet: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    shown: list[str] = []
    with pytest.raises(SettingsError, match=said):
        replay(
            read_trace(parquet),
            Setting((contender(str(tmp_path / "mine.yaml")),), stream=60),
            on_progress=shown.append,
        )
    assert not shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "0"], "there are no seeds"),
        (["--stream", "0"], "a stream of 0"),
        (["--factor", "0"], "factor is 0"),
        (["--factor", "nan"], "factor is nan"),
        (["--split", "fair"], "there is no split 'fair'; there are weighted"),
        (["--split", "extremely"], "there is no split 'extremely'"),
        (["--split", "extreme2"], "needs more than 2 arms"),
        (["--policy", "best"], "policies must differ in name"),
    ],
)
def test_arguments_out_of_range_are_refused_by_what_was_expected(
    arguments: list[str], said: str, parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(parquet), "--policy", "best", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_budgets_in_multiples_of_a_free_model_are_refused(tmp_path: Path) -> None:
    trace = read_trace(write_changed(tmp_path, **{"cost:small": 0.0}))
    with pytest.raises(SettingsError, match="cheapest model costs nothing"):
        replay(trace, Setting((contender("best"),), stream=60, seeds=(0,)), on_progress=lambda _: None)


def test_a_trace_of_a_dozen_rows_is_replayed(tmp_path: Path) -> None:
    make_table(12).to_csv(tmp_path / "toy.csv", index=False)
    setting = Setting((contender("neighbours"),), stream=4, seeds=(0,))
    report = replay(read_trace(tmp_path / "toy.csv"), setting, on_progress=lambda _: None)
    assert report.budget["neighbours"]["throughput"].mean > 0


def test_every_contender_and_reference_is_reported(parquet: Path) -> None:
    shown: list[str] = []
    setting = Setting((contender("neighbours"), contender("port-exact")), stream=60, seeds=(0, 1))
    report = replay(read_trace(parquet), setting, on_progress=shown.append)
    assert set(report.budget) == {*BASELINES, *OPTIMA, "neighbours", "port-exact"}
    assert report.budget["true-opt"]["of_true_opt"].mean == pytest.approx(1.0)
    assert all(metrics["performance"].count == 2 for metrics in report.budget.values())


def test_nobody_earns_more_than_the_optimum_on_the_truth(parquet: Path) -> None:
    setting = Setting((contender("neighbours"),), stream=60, seeds=(0,))
    report = replay(read_trace(parquet), setting, on_progress=lambda _: None)
    best = report.budget["true-opt"]["performance"].mean
    assert all(metrics["performance"].mean <= best + 1.0 for metrics in report.budget.values())


def test_two_models_are_also_judged_by_the_gap_recovered(parquet: Path) -> None:
    setting = Setting((contender("neighbours"),), stream=60, seeds=(0,))
    report = replay(read_trace(parquet), setting, on_progress=lambda _: None)
    assert report.preference["neighbours"]["apgr"].mean > 0.5
    assert report.preference["single models"]["aiq"].mean < report.preference["oracle"]["aiq"].mean


def test_one_budget_for_all_models_is_never_overspent(parquet: Path) -> None:
    setting = Setting((contender("neighbours"),), stream=60, seeds=(0,), split="global")
    report = replay(read_trace(parquet), setting, on_progress=lambda _: None)
    assert report.budget["neighbours"]["cost_usd"].mean <= report.spending.budget


def test_the_command_writes_json_and_figures(parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "mine.yaml"
    written.write_text("policy: {name: neighbours, options: {neighbours: {k: 20}}}\n")
    arguments = ["replay", str(parquet), "--policy", str(written), "--seeds", "1", "--stream", "50"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert {"report.json", "frontier.png", "frontier.svg", "spend.png", "spend.svg"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["budget"]["mine"]["performance"]["mean"] > 0
    out = capsys.readouterr().out
    assert all(label in out for label in ("mine", *BASELINES, *OPTIMA, "performance_per_usd", "of_approx_opt"))


def test_an_unknown_policy_is_refused_with_the_names_there_are(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(parquet), "--policy", "oracle"]) == 2
    assert "'oracle' is neither a file nor one of" in capsys.readouterr().err


def test_a_stream_as_long_as_the_trace_is_refused(parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(parquet), "--stream", "160"]) == 2
    assert "does not leave history" in capsys.readouterr().err


def test_paretobandit_plays_beside_ours(parquet: Path) -> None:
    pytest.importorskip("pareto_bandit")
    setting = Setting((contender("paretobandit"),), stream=40, seeds=(0,), split="global")
    report = replay(read_trace(parquet), setting, on_progress=lambda _: None)
    assert report.budget["paretobandit"]["throughput"].mean > 0


def test_tuning_proposes_settings_that_replay_understands(
    parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(parquet), "--budget", "0.01"]) == 0
    written = tmp_path / "tuned.yaml"
    written.write_text(capsys.readouterr().out)
    found = contender(str(written))
    assert found.policy == "neighbours"
    assert set(found.options) == {"k", "shrinkage", "explore"}
    assert load(written).policy.options["neighbours"] == found.options  # it is a part of a settings file as it stands


def test_tuning_for_less_than_the_cheapest_model_costs_is_refused(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(parquet), "--budget", "0.0001"]) == 2
    assert "less than the cheapest model costs" in capsys.readouterr().err


def test_a_policy_that_ignores_prices_refuses_nothing_that_can_be_paid(parquet: Path) -> None:
    setting = Setting((contender("cheapest"),), stream=60, seeds=(0,), split="global", factor=2.0)
    report = replay(read_trace(parquet), setting, on_progress=lambda _: None)
    assert report.budget["cheapest"]["throughput"].mean == 60
