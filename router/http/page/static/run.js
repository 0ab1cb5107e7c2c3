// Run: what the gateway stands on now. Asked anew every few seconds while somebody looks.

import { adminPage } from "./admin.js";
import { ask } from "./api.js";
import { card, failure, h, show, table } from "./dom.js";
import { digits, moment, percent, span, usd } from "./figures.js";

const EVERY_MS = 3000;
const MOST_MODELS = 200; // shown
const MOST_ROWS = 100; // of refusals, engines and budgets
const WINDOWS = [[5, "the last 5 minutes"], [15, "the last 15 minutes"], [60, "the last hour"]]; // of refusals

/** The page, in `root`. */
export function page(root) {
  const parts = { engines: fresh("Engines"), balances: fresh("Budgets"), decisions: fresh("Latest decisions", "stack"),
    refusals: lately(() => part("refusals", refusals)), settings: fresh("Settings in force") };
  let timer = null, laid = false, everything = false;

  async function load(body) {
    await ask("admin/v1/engines").then(engines(parts.engines));
    if (!laid || !parts.engines.element.isConnected) {
      show(body, h("div", { class: "pair" }, parts.engines.element, parts.balances.element), parts.decisions.element,
        h("div", { class: "pair" }, parts.refusals.element, parts.settings.element));
      laid = true;
    }
    await Promise.all([part("balances", balances), part("decisions", decisions), part("refusals", refusals), settings()]);
  }

  async function part(name, draw) {
    try {
      draw(parts[name])(await ask(`admin/v1/${name}${parts[name].asks?.() ?? ""}`));
    } catch (error) {
      show(parts[name].body, failure(error));
    }
  }

  async function settings() {
    const { settings: found, notes } = await ask(`admin/v1/settings?everything=${everything}`);
    const toggle = h("input", { type: "checkbox", id: "everything", onchange: () => { everything = toggle.checked; settings(); } });
    toggle.checked = everything;
    show(parts.settings.body, h("label", { class: "row small soft" }, toggle, "with what is left at its default"),
      notes.length ? h("ul", { class: "list small" }, notes.map((note) => h("li", {}, note))) : null,
      h("pre", { class: "settings-text", tabindex: "0", "aria-label": "Settings in force" }, lines(found).join("\n") || "# all as by default"));
  }

  const inner = adminPage(root, "Run", load);
  const look = async () => {
    const { activeElement } = document;
    if (!document.hidden && !parts.settings.element.contains(activeElement)) await inner.reload();
    timer = setTimeout(look, EVERY_MS);
  };
  return {
    async enter() { await inner.enter(); clearTimeout(timer); timer = setTimeout(look, EVERY_MS); },
    leave() { inner.leave(); clearTimeout(timer); },
  };
}

function fresh(title, looks = "stack tall") {
  const body = h("div", { class: looks });
  return { element: card(title, body), body };
}

const more = (rows, what) => rows.length > MOST_ROWS ? h("p", { class: "small soft" }, `${rows.length - MOST_ROWS} more ${what} are not shown.`) : null;
const state = (good, text, kind = "bad") => h("span", { class: "nowrap" }, h("i", { class: `dot ${good ? "" : kind}` }), text);

const engines = (part) => ({ data, unpriced }) => {
  const rows = data.flatMap((backend) => backend.engines.map((engine) => ({ backend, ...engine })));
  show(part.body, unpriced ? h("p", { class: "notice" }, unpriced) : null, table([
    { title: "Backend", left: true, cell: (row) => row.backend.backend },
    { title: "Engine", left: true, wide: true, cell: (row) => row.engine },
    { title: "State", left: true, cell: (row) => row.answers === false ? state(false, "silent") : state(true, "answers") },
    { title: "Breaker", left: true, cell: (row) => state(row.breaker === "closed", row.breaker, row.breaker === "open" ? "bad" : "warn") },
    { title: "Here", cell: (row) => row.in_flight },
    { title: "Running", wide: true, cell: (row) => digits(row.running) },
    { title: "Waiting", wide: true, cell: (row) => digits(row.waiting) },
    { title: "KV", wide: true, cell: (row) => percent(row.kv_usage) },
  ], rows.slice(0, MOST_ROWS), { caption: "Engines" }), more(rows, "engines"),
  widths(data),
  data.filter((each) => each.why_spared).map((each) => h("p", { class: "small warn" }, `${each.backend} is spared: ${each.why_spared}`)));
};

/** Which models and widths of them there are, and which of these wait for `pointsman admit`. */
function widths(data) {
  const of = new Map();
  for (const { backend, serves } of data) {
    for (const each of serves) {
      const key = JSON.stringify([backend, each.of]), found = of.get(key) ?? { backend, model: each.of, known: [] };
      of.set(key, found);
      found.known.push(each);
    }
  }
  if (!of.size) return null;
  const named = ({ bits, admitted }) => `${bits === null ? "as it is" : `${bits}bit`}${admitted ? "" : " (not admitted)"}`;
  return table([
    { title: "Model", left: true, wrap: true, cell: (row) => row.model },
    { title: "Backend", left: true, cell: (row) => row.backend },
    { title: "Widths", left: true, wrap: true, cell: (row) => row.known.sort((a, b) => (a.bits ?? 99) - (b.bits ?? 99)).map(named).join(", ") },
  ], [...of.values()].slice(0, MOST_MODELS), { caption: "Models and widths" });
}

const balances = (part) => ({ data }) => show(part.body, data.length ? table([
  { title: "Whose", left: true, wrap: true, cell: (row) => row.scope },
  { title: "Used", left: true, wrap: true, cell: (row) => used(row) },
  { title: "Forecast", left: true, wrap: true, cell: (row) => told(row) },
], data.slice(0, MOST_ROWS), { caption: "Budgets" }) : h("p", { class: "soft" }, "Nobody has a budget."), more(data, "budgets, less used"));

function used(row) {
  const share = Math.min(1, (row.spent_usd + row.held_usd) / (row.limit_usd || 1));
  return h("span", {}, percent(share), h("span", { class: "soft" }, ` of ${Number(row.limit_usd.toPrecision(9))} USD per ${row.period}`), h("span", { class: `meter${share > .8 ? " bad" : ""}`, "aria-hidden": "true" },
    h("i", { style: { width: `${share * 100}%` } })));
}

/** The forecast of a budget in words. */
function told({ forecast, reset_s: reset }) {
  if (forecast.exhausted_in_s === 0) return h("span", { class: "bad" }, `used up; resets in ${span(reset)}`);
  if (forecast.exhausted_in_s !== null) return h("span", { class: "bad" }, `used up in ${span(forecast.exhausted_in_s)}, resets in ${span(reset)}`);
  if (forecast.spent_at_reset_usd !== null) return `${usd(forecast.spent_at_reset_usd)} by its reset in ${span(reset)}`;
  return h("span", { class: "soft" }, forecast.says);
}

const decisions = (part) => ({ data }) => show(part.body, data.length ? table([
  { title: "At (UTC)", left: true, cell: (row) => h("time", { title: moment(row.at_ms) }, moment(row.at_ms).slice(11)) },
  { title: "Tenant", left: true, cell: (row) => row.tenant },
  { title: "Model", left: true, cell: (row) => row.model },
  { title: "Policy", left: true, wide: true, cell: (row) => row.policy },
  { title: "Chance", wide: true, cell: (row) => percent(row.propensity) },
  { title: "Preference", wide: true, cell: (row) => digits(row.preference) },
  { title: "Cost", cell: (row) => row.cost_usd === undefined ? "…" : usd(row.cost_usd) },
  { title: "Answered in", wide: true, cell: (row) => row.latency_ms ? `${digits(row.latency_ms)} ms` : "–" },
  { title: "Judged", wide: true, cell: (row) => row.judgements.length ? digits(row.judgements.at(-1).score) : h("span", { class: "soft" }, "no") },
  { title: "Query", left: true, wrap: true, wide: true, cell: (row) => row.text.slice(0, 120) || h("span", { class: "soft" }, "not kept") },
], data.slice(0, 20), { caption: "Latest decisions" }) : h("p", { class: "soft" }, "None yet."));

/** The card of refusals, with the choice of their window. */
function lately(changed) {
  const select = h("select", { id: "refused-in", onchange: changed }, WINDOWS.map(([minutes, title]) => h("option", { value: minutes }, title)),
    h("option", { value: "" }, "all since the start"));
  select.value = 60;
  const body = h("div", { class: "stack tall" });
  const element = h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Refusals"),
    h("div", { class: "row small soft" }, h("label", { for: "refused-in" }, "of"), select)), body);
  return { element, body, whole: () => select.value === "", asks: () => select.value && `?minutes=${select.value}` };
}

const refusals = (part) => ({ data }) => {
  const whole = part.whole(), rows = whole ? data : data.filter((row) => row.recent);
  show(part.body, rows.length ? table([
    { title: "Reason", left: true, wrap: true, cell: (row) => row.code },
    { title: "Status", cell: (row) => row.status },
    { title: "Tenant", left: true, wrap: true, cell: (row) => row.tenant ?? h("span", { class: "soft" }, "no key") },
    { title: "Times", cell: (row) => (whole ? row.count : row.recent).toLocaleString("en") },
    { title: "Last (UTC)", wide: true, cell: (row) => row.latest_ms ? moment(row.latest_ms).slice(11, 16) : h("span", { class: "soft" }, "earlier") },
  ], rows.slice(0, MOST_ROWS), { caption: "Refusals" }) : h("p", { class: "soft" }, whole ? "None since the workers began." : "None of late."));
};

/** Nested values as lines of YAML. */
function lines(value, indent = "") {
  return Object.entries(value).flatMap(([key, each]) => {
    if (Array.isArray(each)) {
      if (!each.length) return [];
      return [`${indent}${key}:`, ...each.flatMap((item) => item !== null && typeof item === "object"
        ? lines(item, `${indent}    `).map((line, i) => i ? line : `${indent}  - ${line.trimStart()}`) : [`${indent}  - ${item}`])];
    }
    if (each === null || typeof each !== "object") return [`${indent}${key}: ${each}`];
    const below = lines(each, `${indent}  `);
    return below.length ? [`${indent}${key}:`, ...below] : [];
  });
}
