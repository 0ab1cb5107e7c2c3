import { h, show } from "./dom.js";
export function page(root) { show(root, h("p", { class: "soft" }, "Not yet.")); return {}; }
