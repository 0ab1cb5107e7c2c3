"""Proof over the log of a gateway that lived: every figure on the page is what `pointsman replay` and `spend` print."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from cli import main
from evaluation.skills import grade, sample
from router.catalogue.factories import family
from router.learning.proof import OTHERS
from tests.http.conftest import Running
from tests.page.conftest import ACME, ADMIN, client, gateway_in, give_key, opened
from tests.page.test_proof import report_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BETA, CREW, REQUESTS = "sk-beta-on-the-page", "sk-crew-on-the-page", 150
pytestmark = pytest.mark.timeout(600)
GROUPS = ("tenant", "team", "key", "model", "width", "program", "day")
UNITS = {"USD": 1.0, "mUSD": 1e-3, "µUSD": 1e-6, "nUSD": 1e-9}
AMOUNT = re.compile(r"([−\d.,]+) (USD|mUSD|µUSD|nUSD)")
NUMBER = re.compile(r"−?[\d.,]*\d")
SHOWN = 0.006  # of an amount, beside it: three digits are shown
EMPTY = {"width": "as they are", "program": "no program", "team": "(none)"}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """Packaged models and a program, asked by two tenants; graded answers, some that nobody judged, some refused."""
    folder = tmp_path_factory.mktemp("lived")
    keys = {"acme": ACME, "beta": BETA}
    more: dict[str, Any] = {
        "tenants": {name: {"keys": [{"secret": key}], "budgets": ["1 USD per day"]} for name, key in keys.items()},
        "programs": {"twice": {"kind": "vote", "of": "small@4bit", "n": 2}},
        "policy": {"name": "epsilon", "options": {"epsilon": {"share": 0.4}}},
    }
    more["tenants"]["beta"]["teams"] = {"crew": {}}
    more["tenants"]["beta"]["keys"].append({"secret": CREW, "team": "crew"})
    with gateway_in(folder, **more) as gateway:
        tenants = [client(gateway, key) for key in (ACME, BETA, CREW)]
        for number, item in enumerate(sample(REQUESTS, rng=np.random.default_rng(5))):
            live(tenants[number % 3], item, number)
        for each in tenants:
            each.close()
        yield gateway, folder


def live(tenant: httpx.Client, item: Any, number: int) -> None:
    """One request as users send them; of ten one names its model, one nobody judges, and one of twenty is refused."""
    model = {0: "large@8bit", 5: "twice", 9: "no-such-model"}.get(number % 20, "auto")
    body = {"model": model, "messages": [{"role": "user", "content": item.prompt}]}
    answer = tenant.post("/v1/chat/completions", json=body)
    assert answer.is_success == (model != "no-such-model"), answer.text
    if answer.is_success and number % 10 != 3:
        score = grade(item, answer.json()["choices"][0]["message"]["content"])
        judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": score}
        assert tenant.post("/v1/feedback", json=judged).is_success


def replayed(folder: Path, out: Path) -> dict[str, Any]:
    """What `pointsman replay` writes for the policies of the page, by the page's labels."""
    labels = {name: name for name in OTHERS}
    for name in [*(each.name for each in family()), "twice"]:
        path = out / f"{name}.yaml"
        path.write_text(json.dumps({"policy": {"name": "fixed", "options": {"fixed": {"arm": name}}}}))
        labels[str(path)] = f"always {name}"
    wanted = [part for name in labels for part in ("--policy", name)]
    assert main(["replay", f"sqlite:///{folder}/state/pointsman.db", *wanted, "--out", str(out / "out")]) == 0
    found: dict[str, Any] = json.loads((out / "out" / "judgement.json").read_text())
    named = {Path(name).name.removesuffix(".yaml"): label for name, label in labels.items()} | {"live": "live"}
    common = {name: found.pop(name) for name in ("answers", "by", "drift", "over_time")}
    savings = {named[name]: each for name, each in found.pop("savings").items()}
    return common | {"savings": savings, "judged": {named[name]: each for name, each in found.items()}}


def test_the_report_over_it_is_what_replay_says(lived: tuple[Running, Path], tmp_path: Path) -> None:
    gateway, folder = lived
    report, said = report_of(gateway), replayed(folder, tmp_path)
    assert said["answers"] > 80
    assert len([name for name, each in said["judged"].items() if "refused" not in each["quality"]]) >= 2
    assert {name: report[name] for name in said if name != "judged"} == {
        name: each for name, each in said.items() if name != "judged"
    }
    assert report["judged"] == said["judged"]


def test_the_page_shows_the_figures_of_the_report(browser: Browser, lived: tuple[Running, Path]) -> None:
    gateway, _ = lived
    report = report_of(gateway)
    with opened(browser, gateway) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#proof']")
        page.wait_for_selector("[aria-label='Policies compared'] td")
        shown = {cells[1]: cells for cells in rows(page, "Policies compared")}
        known = {name: each for name, each in report["judged"].items() if refusal(each) is None}
        assert shown.keys() == known.keys()
        for name, each in known.items():
            of = "mean" if name == "live" else "dr"
            assert numbers(shown[name][2]) == pytest.approx([100 * each["quality"][of][k] for k in ORDER], abs=0.051)
            saving = report["savings"].get(name)
            if isinstance(saving, dict):
                wanted = [100 * saving[k] for k in ("saved", "saved_low", "saved_high")]
                assert numbers(shown[name][4]) == pytest.approx(wanted, abs=0.51)
        for each in report["judged"].keys() - known.keys():
            assert str(refusal(report["judged"][each])) in (
                page.text_content("details:has-text('Too little is known of')") or ""
            )


def refusal(judged: dict[str, Any]) -> str | None:
    """Why nothing is known of a policy."""
    found: str | None = judged["quality"].get("refused") or judged["cost_usd"].get("refused")
    return found


ORDER = ("mean", "low", "high")


def rows(page: Page, table: str) -> list[list[str]]:
    """The words of every cell."""
    found = page.locator(f"[aria-label='{table}'] tbody tr").all()
    return [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in found]


def numbers(text: str) -> list[float]:
    return [float(each.replace("−", "-").replace(",", "")) for each in NUMBER.findall(text)]


def usd(text: str) -> float:
    (found,) = AMOUNT.findall(text)
    return float(found[0].replace(",", "")) * UNITS[found[1]]


def test_the_spend_on_the_page_is_what_the_verb_prints(
    browser: Browser, lived: tuple[Running, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, _ = lived
    with opened(browser, gateway) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#proof']")
        for by in GROUPS:
            page.select_option("#by", by)
            page.wait_for_selector(f"[aria-label='Spend by {by}'] tr.sum")
            words = ["spend", "--by", by, "--csv", "--config", str(gateway.config)]
            with ThreadPoolExecutor(1) as aside:  # the browser's loop runs in this thread
                assert aside.submit(main, words).result() == 0
            printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
            *shown, total = rows(page, f"Spend by {by}")
            wanted = {line[by] or EMPTY.get(by, "(none)"): line for line in printed}
            assert [row[0] for row in shown] == list(wanted)
            for name, requests, prompt, completion, cost, *_ in shown:
                line = wanted[name]
                assert numbers(requests) == [float(line["requests"])]
                assert numbers(prompt) == [float(line["prompt_tokens"])]
                assert numbers(completion) == [float(line["completion_tokens"])]
                assert usd(cost) == pytest.approx(float(line["cost_usd"]), rel=SHOWN)
            assert numbers(total[1]) == [float(sum(int(line["requests"]) for line in printed))]
