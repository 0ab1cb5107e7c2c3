// Manage: tenants, keys and prices, those of the settings file and those of the API as one list. A secret is shown once.

import { adminPage, everything, sieve } from "./admin.js";
import { ask } from "./api.js";
import { failure, focusOn, h, show, table } from "./dom.js";
import { moment } from "./figures.js";
import { prices } from "./prices.js";

const MOST_OFFERED = 1000; // names of tenants for a new key

/** The page, in `root`. */
export function page(root) {
  const byName = sieve("find-tenant", "Part of a tenant's name", (row) => row.name, drawTenants);
  const byKey = sieve("find-key", "Part of a key, name or tenant", (row) => `${row.id} ${row.name} ${row.tenant} ${row.team ?? ""}`, drawKeys);
  const tenants = part("Tenants", byName), keys = part("Keys", byKey), editor = h("div", {}), models = prices();
  const secret = h("div", { "aria-live": "polite" });
  let names = [];
  const load = async (body) => {
    const [those, these] = await Promise.all([everything("admin/v1/tenants", (row) => row.name),
      everything("admin/v1/keys", (row) => row.id), models.load()]);
    names = those.slice(0, MOST_OFFERED).map((each) => each.name);
    byName.take(those);
    byKey.take(these);
    if (!tenants.element.isConnected) show(body, tenants.element, keys.element, models.element);
  };
  const inner = adminPage(root, "Manage", load);

  function drawTenants(data) {
    show(tenants.body, table([
      { title: "Tenant", left: true, cell: (row) => row.name },
      { title: "Source", left: true, wide: true, cell: source },
      { title: "Budgets", left: true, wrap: true, cell: (row) => row.terms.budgets.map(budget).join(", ") || "–" },
      { title: "Preference", wide: true, cell: (row) => row.terms.preference ?? "–" },
      { title: "Models", left: true, wide: true, wrap: true, cell: (row) => row.terms.allowed_models?.join(", ") ?? "all" },
      { title: "State", left: true, cell: state },
      { title: "", cell: (row) => row.source === "file" ? h("span", { class: "soft small" }, "read-only here")
        : h("button", { type: "button", id: `edit-${row.name}`, "aria-label": `Edit ${row.name}`, onclick: () => edit(row) }, "Edit") },
    ], data, { caption: "Tenants" }), byName.said, editor,
    h("div", {}, h("button", { type: "button", id: "new-tenant", onclick: () => edit(null) }, "New tenant")));
  }

  function edit(row) {
    const terms = row?.terms ?? { budgets: [], preference: null, allowed_models: null, disabled: false };
    const open = terms.budgets.filter((each) => !each.model), ofModels = terms.budgets.filter((each) => each.model);
    const name = h("input", { id: "t-name", required: true, value: row?.name ?? "", readonly: Boolean(row), maxlength: "128" });
    const budgets = h("input", { id: "t-budgets", value: open.map(budget).join(", "), placeholder: "5 USD per day" });
    const preference = h("input", { id: "t-preference", type: "number", min: "0", max: "1", step: "any", value: terms.preference ?? "" });
    const models = h("input", { id: "t-models", value: terms.allowed_models?.join(", ") ?? "", placeholder: "all" });
    const disabled = h("input", { id: "t-disabled", type: "checkbox" });
    disabled.checked = terms.disabled;
    const said = h("div", {});
    const cancel = () => { show(editor); focusOn(row ? `edit-${row.name}` : "new-tenant"); };
    const save = async (event) => {
      event.preventDefault();
      const body = { budgets: [...list(budgets.value), ...ofModels], preference: preference.value === "" ? null : Number(preference.value),
        allowed_models: models.value.trim() ? list(models.value) : null, disabled: disabled.checked };
      try {
        await ask(`admin/v1/tenants/${encodeURIComponent(name.value)}`, { method: row ? "PATCH" : "POST", body });
        show(editor);
        await inner.reload();
        focusOn(`edit-${name.value}`);
      } catch (error) {
        show(said, failure(error));
      }
    };
    show(editor, h("form", { class: "stack", onsubmit: save }, h("div", { class: "form" },
      h("label", { for: "t-name" }, "Name", name), h("label", { for: "t-budgets" }, "Budgets, by commas", budgets),
      h("label", { for: "t-preference" }, "Preference, 0 … 1", preference), h("label", { for: "t-models" }, "Allowed models", models),
      h("label", { for: "t-disabled", class: "check" }, disabled, "disabled")),
    h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, row ? "Save" : "Make"),
      h("button", { type: "button", id: "t-cancel", onclick: cancel }, "Cancel")), said));
    (row ? budgets : name).focus();
  }

  function drawKeys(data) {
    show(keys.body, secret, table([
      { title: "Key", left: true, cell: (row) => h("span", { class: "mono" }, row.id) },
      { title: "Name", left: true, wrap: true, cell: (row) => row.name || "–" },
      { title: "Tenant", left: true, cell: (row) => row.tenant + (row.team ? ` / ${row.team}` : "") },
      { title: "Source", left: true, wide: true, cell: source },
      { title: "Begins", left: true, wide: true, cell: (row) => row.prefix ? h("span", { class: "mono" }, `${row.prefix}…`) : "–" },
      { title: "Made (UTC)", left: true, wide: true, cell: (row) => row.created_ms ? moment(row.created_ms) : "–" },
      { title: "Rights", left: true, wide: true, cell: (row) => row.admin ? "admin" : "–" },
      { title: "State", left: true, cell: state },
      { title: "", cell: (row) => row.source === "file" ? h("span", { class: "soft small" }, "read-only here") : verbs(row) },
    ], data, { caption: "Keys" }), byKey.said, keyForm(names));
  }

  function verbs(row) {
    const turn = row.terms.disabled ? "enable" : "disable";
    const act = async (verb, body) => {
      try {
        const made = await ask(`admin/v1/keys/${encodeURIComponent(row.id)}/${verb}`, { method: "POST", body });
        if (made.secret) tell(made, `${verb}-${row.id}`);
        await inner.reload();
      } catch (error) {
        show(secret, failure(error));
      }
    };
    return h("span", { class: "row nowrap" },
      h("button", { type: "button", id: `rotate-${row.id}`, "aria-label": `Rotate ${row.id}`, onclick: () => act("rotate", {}) }, "Rotate"),
      h("button", { type: "button", id: `turn-${row.id}`, "aria-label": `${turn} ${row.id}`, onclick: () => act(turn) }, turn === "enable" ? "Enable" : "Disable"));
  }

  /** The secret has the focus, and what has this id gets it back. */
  function tell(made, back) {
    const close = () => { show(secret); focusOn(back); };
    show(secret, h("div", { class: "notice stack" }, h("p", {}, `The secret of ${made.id}, shown this once:`),
      h("code", { class: "secret", tabindex: "0" }, made.secret),
      h("div", { class: "row" }, h("button", { type: "button", id: "have-it", onclick: close }, "I have it"))));
    secret.querySelector("code").focus();
  }

  function keyForm(names) {
    const tenant = h("input", { id: "k-tenant", required: true, list: "k-tenants", maxlength: "128" });
    const name = h("input", { id: "k-name", maxlength: "128" });
    const budgets = h("input", { id: "k-budgets", placeholder: "1 USD per day" });
    const admin = h("input", { id: "k-admin", type: "checkbox" });
    const said = h("div", {});
    const make = async (event) => {
      event.preventDefault();
      try {
        tell(await ask("admin/v1/keys", { method: "POST", body: { tenant: tenant.value, name: name.value,
          budgets: list(budgets.value), admin: admin.checked } }), "new-key");
        await inner.reload();
      } catch (error) {
        show(said, failure(error));
      }
    };
    return h("details", {}, h("summary", { id: "new-key" }, "New key"), h("form", { class: "stack", onsubmit: make },
      h("datalist", { id: "k-tenants" }, names.map((each) => h("option", { value: each }))),
      h("div", { class: "form" }, h("label", { for: "k-tenant" }, "Tenant", tenant), h("label", { for: "k-name" }, "Name", name),
        h("label", { for: "k-budgets" }, "Budgets, by commas", budgets),
        h("label", { for: "k-admin", class: "check" }, admin, "admin key")),
      h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, "Make the key")), said));
  }

  return inner;
}

function part(title, { field }) {
  const body = h("div", { class: "stack" });
  return { element: h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, title), field), body), body };
}

const list = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);
const budget = (each) => `${each.limit} USD per ${each.period}${each.hard ? "" : " soft"}${each.model ? ` for ${each.model}` : ""}`;
const source = (row) => row.source === "file" ? h("span", { class: "soft" }, "settings file") : "API";
const state = (row) => h("span", { class: "nowrap" }, h("i", { class: `dot ${row.terms.disabled ? "bad" : ""}` }),
  row.terms.disabled ? "disabled" : "active");
