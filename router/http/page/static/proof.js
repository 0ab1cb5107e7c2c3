// Proof: what was spent, what was saved against other ways, and how good answers were. Every figure is the gateway's own.

import { adminPage } from "./admin.js";
import { ask } from "./api.js";
import { card, failure, h, rest, s, show, table } from "./dom.js";
import { amountIn, digits, hundredths, moment, percent, unitOf, usd } from "./figures.js";

const GROUPS = ["tenant", "team", "key", "model", "width", "program", "day"];
const NONE = { width: "as they are", program: "no program" };
const MOST_LINES = 200; // of spend, in the table
const PER = 1000; // requests, for costs of single ones

/** The page, in `root`. */
export function page(root) {
  const spend = spending(), proof = proving();
  return adminPage(root, "Proof", async (body) => {
    if (!spend.element.isConnected) {
      show(body, proof.savings, h("div", { class: "pair" }, spend.element, proof.overTime),
        h("div", { class: "pair" }, proof.byGroup, proof.drift));
    }
    await Promise.all([spend.load(), proof.load()]);
  });
}

function spending() {
  const by = h("select", { id: "by" }, GROUPS.map((name) => h("option", { value: name }, name)));
  const days = h("select", { id: "days" }, [1, 7, 30, 90].map((n) => h("option", { value: n }, n === 1 ? "today" : `${n} days`)));
  days.value = "30";
  const body = h("div", { class: "stack" });
  const load = async () => {
    try {
      const since = new Date(Date.now() - (Number(days.value) - 1) * 86400e3).toISOString().slice(0, 10);
      const asked = [by.value, "day"].map((name) => ask(`admin/v1/spend?by=${name}&since=${since}`));
      const [lines, ofDays] = (await Promise.all(asked)).map((each) => each.data);
      const elapsed = (Date.now() - Date.parse(ofDays[0]?.day ?? since)) / 86400e3;  // since the first day that has any
      show(body, spendTable(by.value, lines, elapsed));
    } catch (error) {
      show(body, failure(error));
    }
  };
  for (const each of [by, days]) each.addEventListener("change", load);
  const element = h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Spend"),
    h("div", { class: "row small soft" }, h("label", { for: "by" }, "by"), by, h("label", { for: "days" }, "of"), days)), body);
  return { element, load };
}

/** `elapsed`: days that the lines are of; below half a day nothing is foretold. */
function spendTable(by, lines, elapsed) {
  if (!lines.length) return h("p", { class: "soft" }, "Nothing was spent.");
  const total = lines.reduce((sum, line) => sum + line.cost_nanousd, 0);
  const sums = (name) => lines.reduce((sum, line) => sum + line[name], 0);
  const rows = [...lines.slice(0, MOST_LINES), { [by]: lines.length > MOST_LINES ? `all ${lines.length.toLocaleString("en")}` : "all", requests: sums("requests"), prompt_tokens: sums("prompt_tokens"),
    completion_tokens: sums("completion_tokens"), cost_nanousd: total, cost_usd: total / 1e9, saved_usd: sums("saved_usd") }];
  const count = (value) => value.toLocaleString("en");
  return table([
    { title: by, left: true, cell: (row) => row[by] || NONE[by] || "(none)" },
    { title: "Requests", wide: true, cell: (row) => count(row.requests) },
    { title: "Prompt tokens", wide: true, cell: (row) => count(row.prompt_tokens) },
    { title: "Completion tokens", wide: true, cell: (row) => count(row.completion_tokens) },
    { title: "Cost", cell: (row) => usd(row.cost_usd) },
    ...(sums("saved_usd") ? [{ title: "Saved by stored answers", wide: true, cell: (row) => usd(row.saved_usd) }] : []),
    ...(by === "day" ? [] : [{ title: "In 30 days", cell: (row) => elapsed < .5 ? "–" : usd(row.cost_usd / elapsed * 30) }]),
    { title: "Share", wide: true, cell: (row) => total ? percent(row.cost_nanousd / total) : "–" },
  ], rows, { caption: `Spend by ${by}`, rowClass: (row) => row === rows.at(-1) ? "sum" : null });
}

function proving() {
  const said = h("p", { class: "soft", role: "status" });
  const make = h("button", { type: "button", id: "make", onclick: () => make.ariaDisabled === "true" || start() }, "Make it anew");
  const savings = h("div", { class: "stack" }), overTime = h("div", { class: "stack" }), drift = h("div", { class: "stack" });
  const byGroup = qualities();
  const element = h("section", { class: "card stack" },
    h("div", { class: "head" }, h("h2", {}, "What was saved"), make), said, savings);

  async function load() {
    draw(await ask("admin/v1/proof"));
  }

  async function start() {
    try {
      draw(await ask("admin/v1/proof", { method: "POST" }));
    } catch (error) {
      show(said, failure(error));
    }
  }

  function draw({ making, failed, report }) {
    rest(make, making);
    if (making) setTimeout(() => element.isConnected && load().catch((error) => show(said, failure(error))), 1000);
    const about = report ? `Made ${moment(report.made_ms)} UTC of the log's latest ${report.entries.toLocaleString("en")} entries, `
      + `${report.answers.toLocaleString("en")} of its answers judged.` : "No report was made yet.";
    show(said, making ? "A report is being made … " : "", failed ? `${failed}. ` : "", about);
    show(savings, report && (report.refused ? h("p", { class: "notice" }, `Too little is known: ${report.refused}.`) : compared(report)));
    const later = h("p", { class: "soft" }, "Comes with the report.");
    show(overTime, report ? periods(report.over_time) : later);
    show(drift, report?.drift ? drifts(report.drift) : later.cloneNode(true));
    byGroup.take(report?.by);
  }

  return { savings: element, overTime: card("Quality over time", overTime), drift: card("Drift", drift), byGroup: byGroup.element, load };
}

/** Live beside what other policies would have earned and cost, each with its 95 % interval. */
function compared(report) {
  const { live, ...others } = report.judged;
  const points = [{ label: "live", quality: live.quality.mean, cost: live.cost_usd.mean }];
  for (const [label, each] of Object.entries(others)) {
    points.push({ label, quality: each.quality.dr, cost: each.cost_usd.dr, refused: each.quality.refused ?? each.cost_usd.refused });
  }
  const known = points.filter((p) => !p.refused), unknown = points.filter((p) => p.refused);
  known.forEach((point, i) => { point.number = i + 1; point.saving = report.savings[point.label]; });
  const unit = unitOf(Math.max(...known.map((p) => p.cost.mean)) * PER);
  const cost = (value) => amountIn(value * PER, unit);
  const columns = [
    { title: "", cell: (p) => h("span", { class: "soft" }, p.number) },
    { title: "Policy", left: true, cell: (p) => p.label },
    { title: "Quality", cell: (p) => quality(p.quality) },
    { title: `${unit[1]} for ${PER}`, cell: (p) => `${cost(p.cost.mean)} [${cost(p.cost.low)}, ${cost(p.cost.high)}]` },
    { title: "Live saved", cell: (p) => typeof p.saving === "object" && p.saving
      ? `${percent(p.saving.saved)} [${hundredths(p.saving.saved_low)}, ${hundredths(p.saving.saved_high)}]` : "" },
    { title: "Live is better by", wide: true, cell: (p) => typeof p.saving === "object" && p.saving ? signed(p.saving.quality) : "" },
  ];
  return [
    h("div", { class: "chart-table" }, chart(known, unit), table(columns, known, { caption: "Policies compared", rowClass: (p) => p.label === "live" ? "chosen" : null })),
    h("p", { class: "small soft" }, "Off-policy, by the log's own propensities (doubly robust), with 95 % "
      + "intervals; as ", h("code", {}, "pointsman replay"), " prints it. Answers that nobody judged count nowhere."),
    unknown.length ? h("details", {}, h("summary", {}, `Too little is known of ${unknown.length} more`),
      h("ul", { class: "list small" }, unknown.map((p) => h("li", {}, h("b", {}, p.label), `: ${p.refused}`)))) : null,
  ];
}

const signed = (share) => `${hundredths(share, 1)} points`;
const quality = (value) => `${percent(value.mean, 1)} [${hundredths(value.low, 1)}, ${hundredths(value.high, 1)}]`;
const chartWidth = () => Math.max(300, Math.min(600, document.documentElement.clientWidth - 50));

/** Quality over cost: a point with its intervals for each policy. */
function chart(points, unit) {
  const width = chartWidth(), height = 240, left = 44, bottom = 28, top = 10, right = 16;
  const costs = points.flatMap((p) => [p.cost.low, p.cost.high]).map((v) => Math.max(0, v * PER));
  const qualities = points.flatMap((p) => [p.quality.low, p.quality.high]);
  const most = Math.max(...costs) || 1, low = Math.max(0, Math.min(...qualities) - .03), high = Math.min(1, Math.max(...qualities) + .03);
  const x = (usd_) => left + (width - left - right) * Math.min(1, Math.max(0, usd_ * PER / most));
  const y = (q) => top + (height - top - bottom) * (1 - (Math.min(high, Math.max(low, q)) - low) / (high - low));
  const ticks = [0, .25, .5, .75, 1];
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Quality over cost of each policy; the table below has the numbers" },
  ticks.map((t) => [s("line", { class: "axis", x1: left, x2: width - right, y1: y(low + t * (high - low)), y2: y(low + t * (high - low)) }),
    s("text", { x: left - 8, y: y(low + t * (high - low)) + 4, "text-anchor": "end" }, percent(low + t * (high - low))),
    s("text", { x: left + t * (width - left - right), y: height - 8, "text-anchor": t === 1 ? "end" : "middle" },
      t === .75 ? "" : t === 1 ? `${amountIn(most, unit)} ${unit[1]} for ${PER}` : amountIn(t * most, unit))]),
  points.map((p) => [
    s("line", { class: "reach", x1: x(p.cost.low), x2: x(p.cost.high), y1: y(p.quality.mean), y2: y(p.quality.mean) }),
    s("line", { class: "reach", x1: x(p.cost.mean), x2: x(p.cost.mean), y1: y(p.quality.low), y2: y(p.quality.high) }),
    s("circle", { class: p.label === "live" ? "live" : "other", cx: x(p.cost.mean), cy: y(p.quality.mean), r: 8 }),
    s("text", { class: p.label === "live" ? "on-live" : "on", x: x(p.cost.mean), y: y(p.quality.mean) + 3.5, "text-anchor": "middle" }, p.number)]));
}

function periods(found) {
  if (!found.length) return h("p", { class: "soft" }, "Too few answers were judged: a period needs 50.");
  const known = found.filter((each) => each.quality);
  const numbers = table([
    { title: "Until (UTC)", left: true, cell: (p) => moment(p.until_ms) },
    { title: "Judged", cell: (p) => p.answers },
    { title: "Quality", cell: (p) => p.quality ? quality(p.quality) : "too little" },
    { title: `Cost of ${PER}`, cell: (p) => p.cost_usd ? usd(p.cost_usd.mean * PER) : "" },
  ], found, { caption: "Quality and cost over time" });
  return known.length > 1 ? [line(known), h("details", {}, h("summary", {}, "The numbers, and what it cost"), numbers)] : numbers;
}

/** Models whose quality moved, and those of which that can be told. */
function drifts(found) {
  if (!found.length) return h("p", { class: "soft" }, "No answer was judged.");
  const moved = found.filter((each) => each.moved), known = found.filter((each) => !each.refused);
  const points = (each) => `${signed(each.shift)} [${hundredths(each.shift_low, 1)}, ${hundredths(each.shift_high, 1)}]`;
  return [
    moved.map((each) => h("p", { class: "notice error", role: "alert" },
      `${each.model} has ${each.shift < 0 ? "fallen" : "risen"} since ${moment(each.since_ms)} UTC: ${points(each)}.`)),
    table([
      { title: "Model", left: true, wrap: true, cell: (each) => each.model },
      { title: "Judged", cell: (each) => each.answers },
      { title: "Quality moved", left: true, cell: (each) => each.refused ? h("span", { class: "soft" }, "too little is known")
        : each.moved ? h("b", {}, points(each)) : "no" },
      { title: "p", wide: true, cell: (each) => each.refused ? "" : digits(each.p) },
    ], found, { caption: "Drift of quality" }),
    h("p", { class: "small soft" }, known.length ? "Against what the whole log lets expect of such queries (CUSUM); at most one report in a hundred "
      + "alarms where nothing moved." : "A model needs 100 judged answers."),
  ];
}

function qualities() {
  const by = h("select", { id: "quality-by" }, ["model", "width", "program"].map((name) => h("option", { value: name }, name)));
  const body = h("div", { class: "stack" });
  let found = null;
  const draw = () => show(body, found ? [table([
    { title: by.value, left: true, wrap: true, cell: (each) => each.name || NONE[by.value] },
    { title: "Judged", cell: (each) => each.answers },
    { title: "Quality", cell: (each) => each.quality ? quality(each.quality) : h("span", { class: "soft" }, "too little is known") },
    { title: `Cost of ${PER}`, cell: (each) => each.cost_usd ? usd(each.cost_usd.mean * PER) : "" },
  ], found[by.value], { caption: `Quality by ${by.value}` }),
  h("p", { class: "small soft" }, "Of the answers that each gave. Who was given harder queries looks worse than they are: compare policies above.")]
    : h("p", { class: "soft" }, "Comes with the report."));
  by.addEventListener("change", draw);
  const element = h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Quality"),
    h("div", { class: "row small soft" }, h("label", { for: "quality-by" }, "by"), by)), body);
  return { element, take(groups) { found = groups ?? null; draw(); } };
}

function line(known) {
  const width = chartWidth(), height = 150, left = 44, right = 16, top = 8, bottom = 12;
  const low = Math.max(0, Math.min(...known.map((p) => p.quality.low)) - .02), high = Math.min(1, Math.max(...known.map((p) => p.quality.high)) + .02);
  const x = (i) => left + (width - left - right) * i / (known.length - 1);
  const y = (q) => top + (height - top - bottom) * (1 - (Math.min(high, q) - low) / (high - low));
  const path = (points) => points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  const band = [...known.map((p, i) => [x(i), y(p.quality.high)]), ...known.map((p, i) => [x(i), y(p.quality.low)]).reverse()];
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Quality over time; the table below has the numbers" },
    [0, .5, 1].map((t) => [s("line", { class: "axis", x1: left, x2: width - right, y1: y(low + t * (high - low)), y2: y(low + t * (high - low)) }),
      s("text", { x: left - 8, y: y(low + t * (high - low)) + 4, "text-anchor": "end" }, percent(low + t * (high - low)))]),
    s("polygon", { class: "band", points: path(band) }),
    s("polyline", { class: "line", points: path(known.map((p, i) => [x(i), y(p.quality.mean)])) }));
}
