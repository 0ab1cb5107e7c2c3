// What the three pages for operators share: an admin key is needed, and is asked for.

import { ask, hasKey, onKey } from "./api.js";
import { failure, h, show } from "./dom.js";

/** A page that asks with an admin key. `load` fills `body`; it is called when the page is entered and the key changes. */
export function adminPage(root, title, load) {
  const body = h("div", { class: "stack" });
  let here = false;
  show(root, h("h1", {}, title), body);
  const reload = async () => {
    if (!here) return;
    if (!hasKey()) {
      show(body, h("p", { class: "notice" }, "Type an admin key into the field at the top: ", ...whence()));
      return;
    }
    try {
      await load(body);
    } catch (error) {
      show(body, refused(error));
    }
  };
  onKey(reload);
  return { enter() { here = true; return reload(); }, leave() { here = false; }, reload };
}

const PAGE = 1000, MOST = 20_000; // of a list: asked for at once, and in all
const SHOWN = 100; // rows

/** All of a list that comes by pages. `nameOf`: what it is in the order of. */
export async function everything(path, nameOf) {
  const found = [];
  for (let after = ""; found.length < MOST;) {
    const { data } = await ask(`${path}?limit=${PAGE}&after=${encodeURIComponent(after)}`);
    found.push(...data);
    if (data.length < PAGE) break;
    after = nameOf(data.at(-1));
  }
  return found;
}

/** Of many rows those that hold what is typed, and of these as many as one can look through. */
export function sieve(id, label, wordsOf, draw) {
  let rows = [];
  const field = h("input", { id, type: "search", "aria-label": label, placeholder: label, autocomplete: "off", hidden: true });
  const said = h("p", { class: "small soft", role: "status" });
  const again = () => {
    const typed = field.value.trim().toLowerCase(), fit = rows.filter((row) => wordsOf(row).toLowerCase().includes(typed));
    field.hidden = rows.length <= SHOWN;
    said.textContent = fit.length > SHOWN ? `${SHOWN} of ${fit.length.toLocaleString("en")} are shown.` : "";
    draw(fit.slice(0, SHOWN));
  };
  field.addEventListener("input", again);
  return { field, said, take(found) { rows = found; again(); } };
}

const whence = () => ["the settings' auth.admin_key, and keys that ", h("code", {}, "pointsman keys create ops --admin"), " makes (with the --config that the gateway was started with, if any)."];

function refused(error) {
  if (error.status !== 403) return failure(error);
  return h("p", { class: "notice", role: "alert" }, "This needs an admin key; the key above is none. There are ", ...whence());
}
