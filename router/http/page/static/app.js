// The shell: which page is shown, and which key is used.

import { about, ask, hasKey, onKey, onRefused, setKey } from "./api.js";
import { failure, h, show } from "./dom.js";

const PAGES = { try: () => import("./try.js"), proof: () => import("./proof.js"), run: () => import("./run.js"),
  manage: () => import("./manage.js") };
const TITLES = { try: "Try", proof: "Proof", run: "Run", manage: "Manage" };
const main = document.getElementById("main");
const state = document.getElementById("key-state");
const field = document.getElementById("key");
const made = new Map(); // a page is made once: what was said in it stays while another is looked at
let shown = "";

async function go() {
  const name = location.hash.slice(1);
  if (name === "main") return main.focus();
  shown = name in PAGES ? name : "try";
  document.title = `${TITLES[shown]} · Pointsman`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const asked = shown;
  if (!made.has(asked)) {
    const element = h("div", { class: "stack" });
    made.set(asked, { element, page: null });
    try {
      made.get(asked).page = (await PAGES[asked]()).page(element);
    } catch (error) {
      show(element, failure(error));
    }
  }
  if (asked !== shown) return;
  for (const [other, each] of made) if (other !== shown) each.page?.leave?.();
  show(main, made.get(shown).element);
  made.get(shown).page?.enter?.();
}

let looks = 0; // an answer that comes after another look has begun says nothing

async function look() {
  const mine = ++looks, say = (element) => mine === looks && show(state, element);
  try {
    if (!hasKey() && (await about()).needs_key) return say(h("span", {}, "needed"));
    const { data } = await ask("v1/models");
    say(h("span", { class: "good" }, `${data.filter((m) => m.owned_by !== "pointsman").length} models`));
  } catch (error) {
    if (error.status !== 401) say(h("span", { class: "bad" }, error.message));
  }
  for (const each of made.values()) each.page?.keyChanged?.();
}

document.getElementById("key-form").addEventListener("submit", (event) => event.preventDefault());
field.addEventListener("change", () => setKey(field.value));
field.addEventListener("keydown", (event) => event.key === "Enter" && setKey(field.value));
onKey(look);
onRefused(() => show(state, h("span", { class: "bad" }, hasKey() ? "unknown key" : "needed")));
window.addEventListener("hashchange", go);
go();
look();
