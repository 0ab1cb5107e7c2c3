// One decision: who was considered, what each was expected to earn and cost, and what would have changed the choice.

import { amountIn, digits, percent, unitOf, usd } from "./figures.js";
import { h, table } from "./dom.js";

/** Everything of a decision as GET /v1/decisions or POST /v1/route tells it. */
export function decisionView(found) {
  const eligible = found.candidates.filter((each) => each.eligible)
    .sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const others = found.candidates.filter((each) => !each.eligible);
  return [
    h("p", {}, ...sentence(found, eligible)),
    h("p", { class: "soft small" }, facts(found)),
    candidates(found, eligible),
    others.length ? h("div", {}, h("h3", {}, "Not eligible"), h("ul", { class: "list small" },
      others.map((each) => h("li", {}, h("b", {}, each.model), ` ${each.reason}`)))) : null,
    flips(found),
    nearest(found.neighbours),
  ];
}

function sentence(found, eligible) {
  const best = eligible[0];
  const model = h("b", {}, found.model);
  if (found.policy === "pinned") return [model, " was asked for by name; nothing was weighed."];
  if (eligible.length === 1) return [model, " was the only one that may answer."];
  const chance = percent(found.propensity, found.propensity > .995 ? 1 : 0);
  if (best.model === found.model) {
    const ahead = best.score - eligible[1].score;
    const by = Number.isFinite(ahead) ? `, ${digits(ahead)} ahead of ${eligible[1].model}` : "";
    return [model, ` had the best score, ${digits(best.score)}${by}; its chance was ${chance}.`];
  }
  return [model, ` was drawn with a chance of ${chance}, to find out more; `, h("b", {}, best.model),
    ` had the best score, ${digits(best.score)}.`];
}

function facts(found) {
  const parts = [`policy ${found.policy}`, `preference ${digits(found.preference)}`,
    `λ = ${digits(found.lambda_per_usd)} per USD`];
  if (found.budget) parts.push(`${found.budget.name} has ${usd(found.budget.remaining_usd)} left`);
  return parts.join(" · ");
}

function candidates(found, eligible) {
  const unit = unitOf(Math.max(...eligible.map((each) => each.cost_usd)));
  const columns = [
    { title: "Model", left: true, cell: (each) => each.model },
    { title: "", wide: true, cell: bar },
    { title: "q̂ ± σ", cell: (each) => `${each.quality.toFixed(2)} ± ${each.sigma.toFixed(2)}` },
    { title: `ĉ, ${unit[1]}`, cell: (each) => amountIn(each.cost_usd, unit) },
    { title: "price · ĉ", wide: true, cell: (each) => aligned(each.price * each.cost_usd) },
    { title: "Score", cell: (each) => each.score === null ? "no money" : aligned(each.score) },
    { title: "Chance", cell: (each) => percent(each.probability) },
  ];
  return h("div", {},
    table(columns, eligible, { caption: "Candidates", tight: true,
      rowClass: (each) => each.model === found.model ? "chosen" : each.score === null ? "closed" : null }),
    h("p", { class: "small soft wide" }, h("span", { class: "key" }, "score"),
      h("span", { class: "key takes" }, "what its cost takes of q̂"), h("span", { class: "key doubt" }, "± σ")),
    h("p", { class: "small soft" }, "score = q̂ − price · ĉ, where the price is λ of the preference, and what budgets add"));
}

const aligned = (value) => Math.abs(value) < 10 ? value.toFixed(3).replace("-", "−") : digits(value);

function bar(each) {
  const wide = (from, to) => ({ left: `${clip(from)}%`, width: `${clip(to) - clip(from)}%` });
  const keeps = each.score === null ? 0 : Math.max(0, Math.min(each.score, each.quality));
  return h("span", { class: "bar", "aria-hidden": "true" },
    h("i", { class: "takes", style: wide(0, each.quality) }), h("i", { class: "keeps", style: wide(0, keeps) }),
    h("i", { class: "doubt", style: wide(each.quality - each.sigma, each.quality + each.sigma) }));
}

const clip = (value) => Math.min(100, Math.max(0, value * 100));

function flips(found) {
  if (!found.flips) return null;
  const said = found.flips.map((each) => h("li", {}, h("b", {}, each.model), ` ${each.says}`));
  return h("div", {}, h("h3", {}, "What would flip it"),
    said.length ? h("ul", { class: "list" }, said)
      : h("p", { class: "soft" }, "No preference, price or budget alone makes another model the best one."));
}

function nearest(neighbours) {
  if (!neighbours.length) {
    return h("div", {}, h("h3", {}, "Nearest past queries"),
      h("p", { class: "soft" }, "None yet: judge answers, and the next decision rests on them."));
  }
  const scores = (each) => Object.entries(each.scores).map(([model, score]) => `${model} ${digits(score)}`).join(", ");
  return h("div", {}, h("h3", {}, "Nearest past queries"), table([
    { title: "Query", left: true, wrap: true, cell: (each) => each.text || h("span", { class: "soft" }, "text not kept") },
    { title: "Similarity", cell: (each) => each.similarity.toFixed(2) },
    { title: "Scores", left: true, wrap: true, cell: (each) => scores(each) || "not judged" },
  ], neighbours, { caption: "Nearest past queries" }));
}
