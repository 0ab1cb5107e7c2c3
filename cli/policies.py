"""The verbs that judge, tune and teach policies: replay, export, tune, learn, onboard."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from router.types import now_ms

WIDTH = 140  # columns of a table whose cells are not cut, where the terminal is narrower or there is none
Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add replay, export, tune, learn and onboard."""
    replay = verbs.add_parser("replay", help="compare policies on a trace where every model's answer is known")
    replay.add_argument("trace", help="a .parquet, .csv or RouterBench .pkl file, a gateway's store (a URL) or export")
    replay.add_argument("--policy", action="append", help="a name or a YAML file; may be repeated (default: paced)")
    replay.add_argument("--seeds", type=int, default=3, help="how many random splits (default 3)")
    replay.add_argument("--stream", type=int, help="queries routed; the rest is history (default 40 %%, at most 5000)")
    replay.add_argument("--split", default="weighted", help="weighted, cost, perf, uniform, extreme1-5, random, global")
    replay.add_argument("--factor", type=float, default=1.0, help="budget, times the cheapest model's cost (default 1)")
    replay.add_argument("--out", type=Path, default=Path("replay"), help="folder for JSON and figures (default replay)")
    replay.set_defaults(run=_replay)
    exported = verbs.add_parser("export", help="write a gateway's outcome log as parquet, which replay reads")
    exported.add_argument("store", help="sqlite:///PATH or a Redis URL")
    exported.add_argument("out", type=Path, help="the .parquet file to write")
    exported.set_defaults(run=_export)
    tune = verbs.add_parser("tune", help="propose settings of `neighbours` for a trace and a budget; prints YAML")
    tune.add_argument("trace", type=Path, help="a .parquet, .csv or RouterBench .pkl file")
    tune.add_argument("--budget", type=float, required=True, help="USD for all queries of the trace")
    tune.set_defaults(run=_tune)
    learn = verbs.add_parser("learn", help="teach a running gateway queries that every model answered")
    learn.add_argument(
        "trace", type=Path, nargs="?", help="a .parquet, .csv or .jsonl file; none: list what was taught"
    )
    learn.add_argument("--name", help="of the history (default: the file's)")
    learn.add_argument(
        "--map", action="append", default=[], metavar="MODEL=NAME", help="what the gateway calls a model of the file"
    )
    learn.add_argument("--forget", metavar="NAME", help="forget a history instead")
    learn.add_argument("--url", default="http://127.0.0.1:8080", help="the gateway (default: http://127.0.0.1:8080)")
    learn.add_argument("--key", help="an admin key (default: POINTSMAN_ADMIN_KEY of the environment)")
    learn.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="for it to be learned (default 600)"
    )
    learn.set_defaults(run=_learn)
    onboard = verbs.add_parser("onboard", help="let a new model answer a few informative prompts and learn from them")
    onboard.add_argument("model", help="a model the gateway serves")
    onboard.add_argument("--prompts", type=int, default=30, help="how many to ask (default 30)")
    onboard.add_argument(
        "--from", dest="file", type=Path, help='JSON lines: "prompt" and "answer", "regex" or "schema"'
    )
    onboard.add_argument("--url", help="a running gateway (default: http://127.0.0.1:8080, or a fresh one)")
    onboard.add_argument("--key", help="a key of that gateway")
    onboard.set_defaults(run=_onboard)


def _replay(arguments: argparse.Namespace) -> int:
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  # each verb imports what it needs when it runs

    from evaluation.export import is_export  # noqa: PLC0415

    a_log = "://" in arguments.trace or is_export(Path(arguments.trace))
    if not a_log:
        return _replay_trace(arguments)
    with threadpool_limits(1):  # as for the page's report: sums are the same to the last bit wherever they are made
        return _judge_log(arguments)


def _export(arguments: argparse.Namespace) -> int:
    """Write the log of a store as parquet."""
    from evaluation.export import export  # noqa: PLC0415
    from router.stores.open import open_stores  # noqa: PLC0415

    _must_exist(arguments.store)

    async def work() -> int:
        async with open_stores(arguments.store, clock=now_ms) as stores:
            return await export(stores.log.tail("", follow=False), arguments.out)

    print(f"{asyncio.run(work())} decisions in {arguments.out}")
    return 0


def _judge_log(arguments: argparse.Namespace) -> int:
    """Off-policy evaluation from the propensities in a gateway's log."""
    from evaluation.replay import contender  # noqa: PLC0415
    from router.learning.judgement import as_json, built, judge_policy, judged_answers, live_value  # noqa: PLC0415
    from router.learning.proof import over_time, quality_by, savings  # noqa: PLC0415
    from router.learning.quality_drift import drift_of  # noqa: PLC0415

    wanted = [contender(each) for each in arguments.policy or ["paced"]]
    policies = {each.label: built(each.policy, each.options) for each in wanted}
    entries = asyncio.run(_log_of(arguments.trace))
    answers = judged_answers(entries)
    judged = {}
    with _Bar(len(policies)) as on_progress:
        for label, policy in policies.items():
            judged[label] = judge_policy(policy, entries)
            on_progress(label)
    judged = {"live": live_value(answers), **judged}
    print(f"{len(answers)} judged answers")
    for label, judgement in judged.items():
        for metric, values in judgement.items():
            for estimator, value in values.items():
                text = value if isinstance(value, str) else f"{value.mean:.6g} [{value.low:.6g}, {value.high:.6g}]"
                print(f"{label:16} {metric:9} {estimator:8} {text}")
    by_group, drift, periods, saved = quality_by(answers), drift_of(answers), over_time(answers), savings(judged)
    for label, saving in saved.items():
        print(_saving_line(label, saving))
    for period in periods:
        print(_period_line(period))
    for by, group in by_group.items():
        for each in group:
            print(_group_line(by, each))
    for each in drift:
        print(_drift_line(each))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "judgement.json"
    more = {"answers": len(answers), "by": by_group, "drift": drift, "over_time": periods, "savings": saved}
    path.write_text(json.dumps(more | as_json(judged), indent=2))
    print(path)
    return 0


def _saving_line(label: str, found: Any) -> str:
    """What the live policies saved of another's cost."""
    if isinstance(found, str):
        return f"{label:16} live saved {found}"
    return f"{label:16} live saved {found['saved']:.6g} [{found['saved_low']:.6g}, {found['saved_high']:.6g}]"


def _period_line(found: Mapping[str, Any]) -> str:
    """Quality of the answers up to a moment."""
    return _group_line("until", {**found, "name": _utc(found["until_ms"])})


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms / 1000))


def _group_line(by: str, found: Mapping[str, Any]) -> str:
    """Quality of what one model, width or program answered."""
    label = f"{by} {found['name'] or '(none)'}"
    if "refused" in found:
        return f"{label:26} {found['refused']}"
    value = found["quality"]
    return f"{label:26} quality {value['mean']:.6g} [{value['low']:.6g}, {value['high']:.6g}] of {found['answers']}"


def _drift_line(found: Mapping[str, Any]) -> str:
    """Whether a model's quality moved."""
    if "refused" in found:
        return f"drift: {found['refused']}"
    shift = f"{found['shift']:+.3f} [{found['shift_low']:+.3f}, {found['shift_high']:+.3f}]"
    moved = f"moved by {shift} from {_utc(found['since_ms'])} on"
    return f"drift: {found['model']} {moved if found['moved'] else 'did not move'} (p = {found['p']:.2g})"


def _must_exist(url: str) -> None:
    """Reading makes no store. Raises: SettingsError where a file is named that is not there."""
    from router.errors import SettingsError  # noqa: PLC0415

    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.is_file():
        raise SettingsError(f"there is no store {path}", param=str(path))


async def _log_of(url: str) -> list[Any]:
    """Every entry of the store's log."""
    from router.stores.open import open_stores  # noqa: PLC0415

    if "://" not in url:
        from evaluation.export import imported  # noqa: PLC0415

        return list(imported(Path(url)))
    _must_exist(url)
    async with open_stores(url, clock=now_ms) as stores:
        return [entry async for _, entry in stores.log.tail("", follow=False)]


def _replay_trace(arguments: argparse.Namespace) -> int:
    from evaluation.plots import write_report  # noqa: PLC0415  # each verb imports what it needs when it runs
    from evaluation.replay import Setting, contender, default_stream, replay, stages  # noqa: PLC0415
    from evaluation.traces import read_trace  # noqa: PLC0415

    trace = read_trace(Path(arguments.trace))
    setting = Setting(
        contenders=tuple(contender(each) for each in arguments.policy or ["paced"]),
        stream=default_stream(len(trace)) if arguments.stream is None else arguments.stream,
        seeds=tuple(range(arguments.seeds)),
        split=arguments.split,
        factor=arguments.factor,
    )
    with _Bar(stages(setting)) as on_progress:
        report = replay(trace, setting, on_progress=on_progress)
    _print_report(report)
    for path in write_report(report, arguments.out):
        print(path)
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from evaluation.traces import embed_whole, read_trace  # noqa: PLC0415
    from evaluation.tune import parts, tune  # noqa: PLC0415  # each verb imports what it needs when it runs
    from router.errors import SettingsError  # noqa: PLC0415

    trace = read_trace(arguments.trace)
    with _Bar(parts()) as on_progress:
        try:
            found = tune(embed_whole(trace), usd_per_query=arguments.budget / len(trace), on_progress=on_progress)
        except ValueError as error:
            raise SettingsError(str(error), param="budget") from error
    print(f"# mean score {found.quality:.4f} at {found.price:.4g}/USD; with the defaults: {found.default_quality:.4f}")
    options = f"{{k: {found.k}, shrinkage: {found.shrinkage}, explore: {found.explore}}}"
    print(f"policy: {{name: neighbours, options: {{neighbours: {options}}}}}")
    return 0


def _learn(arguments: argparse.Namespace) -> int:
    """Teach, forget or list labelled histories."""
    from cli.serving import post  # noqa: PLC0415  # each verb imports what it needs when it runs
    from evaluation.learn import count_lines, teach  # noqa: PLC0415

    def ask(path: str, body: Any = None, method: str = "POST") -> dict[str, Any]:
        key = arguments.key or os.environ.get("POINTSMAN_ADMIN_KEY", "")
        return post(f"{arguments.url.rstrip('/')}{path}", key, body, method=method)

    if arguments.forget:
        gone = ask(f"/admin/v1/histories/{quote(arguments.forget, safe='')}", method="DELETE")
        print(f"{gone['forgotten']} rows forgotten")
        return 0
    if arguments.trace is None:
        for each in ask("/admin/v1/histories", method="GET")["data"]:
            state = "learned" if each["learned"] else "being learned"
            print(f"{each['name']}: {each['rows']} rows of {', '.join(each['models'])}, {state}")
        return 0
    name, arms = arguments.name or arguments.trace.stem, _mapped(arguments.map)
    bar = _Bar(count_lines(arguments.trace, arms))
    with bar as on_progress:
        stored = teach(arguments.trace, name, arms, post=ask, on_progress=lambda rows: on_progress(name, rows))
    print(f"{stored} new rows in {name}", flush=True)
    until = time.monotonic() + arguments.wait
    while time.monotonic() < until:
        if all(each["learned"] for each in ask("/admin/v1/histories", method="GET")["data"] if each["name"] == name):
            print(f"{name} is learned")
            return 0
        time.sleep(0.5)
    print(f"{name} is being learned; it goes on without this command")
    return 0


def _mapped(pairs: list[str]) -> dict[str, str]:
    """Raises: SettingsError."""
    from router.errors import SettingsError  # noqa: PLC0415

    found = dict(pair.rpartition("=")[::2] for pair in pairs)
    if "" in found or "" in found.values():
        raise SettingsError(f"--map is {', '.join(pairs)}, expected MODEL=NAME", param="map")
    return found


def _onboard(arguments: argparse.Namespace) -> int:
    from cli.serving import post  # noqa: PLC0415  # each verb imports what it needs when it runs
    from evaluation.local_gateway import running_gateway  # noqa: PLC0415
    from evaluation.onboard import family_prompts, onboard, read_prompts  # noqa: PLC0415

    prompts = read_prompts(arguments.file) if arguments.file else family_prompts(10 * arguments.prompts)
    bar = _Bar(len(prompts) + arguments.prompts)
    with running_gateway(arguments.url, arguments.key, say=print) as (url, key), bar as on_progress:
        found = onboard(
            arguments.model,
            prompts,
            count=arguments.prompts,
            post=lambda path, body: post(f"{url}{path}", key, dict(body)),
            on_progress=on_progress,
        )
    print(f"{arguments.model}: {found.asked} prompts of {len(prompts)}, mean grade {found.mean_score:.3f}")
    print(f"expected over all of them: {found.level:.3f} ± {found.sigma:.3f}")
    for name, quality in sorted(found.rivals.items(), key=lambda each: -each[1]):
        print(f"  beside {name}: {quality:.3f}")
    return 0


class _Bar:
    """A progress bar over a known number of parts."""

    def __init__(self, parts: int) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.description:32}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True)
        )
        self._task = self._progress.add_task("reading", total=parts)

    def __enter__(self) -> Any:
        self._progress.start()
        return lambda what, parts=1: self._progress.update(self._task, advance=parts, description=what)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _print_report(report: Any) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from evaluation.replay import rows_of  # noqa: PLC0415

    setting = report.setting
    title = f"{report.trace}: {setting.stream} queries, {setting.split} budgets × {setting.factor:g}, 95 % intervals"
    shown = ("performance", "cost_usd", "performance_per_usd", "throughput", "of_approx_opt", "of_true_opt")
    for name, measured, columns in (
        (f"{title} over {len(setting.seeds)} seeds", report.budget, shown),
        ("preference mode", report.preference, ("aiq", "apgr", "cpt_50", "cpt_80")),
    ):
        table = Table("", *columns, title=name, title_justify="left", box=box.SIMPLE_HEAD)
        for cells in rows_of(measured, columns):
            table.add_row(*cells)
        Console(width=max(Console().width, WIDTH)).print(table)
