// What the three pages for operators share: an admin key is needed, and is asked for.

import { hasKey, onKey } from "./api.js";
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

const whence = () => ["the settings' auth.admin_key, and keys that ", h("code", {}, "pointsman keys create ops --admin"), " makes."];

function refused(error) {
  if (error.status !== 403) return failure(error);
  return h("p", { class: "notice", role: "alert" }, "This needs an admin key; the key above is none. There are ", ...whence());
}
