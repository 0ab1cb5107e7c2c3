// Prices of models: those of the settings file are read-only; all others can have another one, at once or from a day on.

import { sieve } from "./admin.js";
import { ask } from "./api.js";
import { failure, focusOn, h, show, table } from "./dom.js";

const PARTS = [["prompt", "Prompt"], ["cached", "Cached prompt"], ["cache_write", "Written to a cache"], ["completion", "Completion"]];
const SOURCES = { file: "settings file", api: "API", list: "engine or list", steps: "its steps" };
const at = (name) => `admin/v1/prices/${name.split("/").map(encodeURIComponent).join("/")}`;

/** The card, and what fills it. */
export function prices() {
  const body = h("div", { class: "stack" }), editor = h("div", {});
  const byModel = sieve("find-price", "Part of a model's name", (row) => row.model, draw);
  const element = h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Prices"), byModel.field), body);

  async function load() {
    byModel.take((await ask("admin/v1/prices")).data);
  }

  function draw(data) {
    const part = ([key, title]) => ({ title, wide: key.startsWith("cache"), cell: (row) => row.price[key] ?? "–" });
    show(body, h("p", { class: "small soft" }, "USD per million tokens, today."), table([
      { title: "Model", left: true, wrap: true, cell: (row) => row.model },
      { title: "Source", left: true, wide: true, cell: (row) => h("span", { class: "soft" }, SOURCES[row.source]) },
      ...PARTS.map(part),
      { title: "Later", left: true, wide: true, wrap: true, cell: later },
      { title: "", cell: (row) => row.read_only ? h("span", { class: "soft small" }, "read-only here")
        : h("button", { type: "button", id: `price-${row.model}`, "aria-label": `Price of ${row.model}`, onclick: () => edit(row) }, "Change") },
    ], data, { caption: "Prices" }), byModel.said, editor);
  }

  function edit(row) {
    const inputs = PARTS.map(([key]) => h("input", { id: `p-${key}`, inputmode: "decimal", value: row.price[key] ?? "",
      required: key === "prompt" || key === "completion" }));
    const from = h("input", { id: "p-from", type: "date" });
    const said = h("div", {});
    const send = async (request) => {
      try {
        await ask(at(row.model), request);
        show(editor);
        await load();
        focusOn(`price-${row.model}`);
      } catch (error) {
        show(said, failure(error));
      }
    };
    const save = (event) => {
      event.preventDefault();
      const given = { ...now(row) };
      PARTS.forEach(([key], i) => { if (inputs[i].value.trim()) given[key] = inputs[i].value.trim(); else delete given[key]; });
      return send({ method: "PUT", body: changed(row, given, from.value) });
    };
    show(editor, h("form", { class: "stack", onsubmit: save }, h("h3", {}, row.model), h("div", { class: "form" },
      PARTS.map(([key, title], i) => h("label", { for: `p-${key}` }, title, inputs[i])),
      h("label", { for: "p-from" }, "From (UTC day), empty: at once", from)),
    h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, "Save"),
      row.source === "api" ? h("button", { type: "button", id: "p-take-back", onclick: () => send({ method: "DELETE" }) }, "Take it back") : null,
      h("button", { type: "button", onclick: () => { show(editor); focusOn(`price-${row.model}`); } }, "Cancel")), said));
    inputs[0].focus();
  }

  return { element, load };
}

const day = () => new Date().toISOString().slice(0, 10);
const ahead = (row) => (row.section?.changes ?? []).filter((each) => each.since > day());
const later = (row) => ahead(row).map((each) => `${each.prompt} / ${each.completion} from ${each.since}`).join(", ") || "–";
const now = (row) => row.price;

/** The whole price as it is to be: `given` at once, or from a day on beside what holds until then. */
function changed(row, given, from) {
  const others = ahead(row).filter((each) => each.since !== from);
  if (!from || from <= day()) return { ...given, changes: others };
  return { ...now(row), changes: [...others, { ...given, since: from }] };
}
