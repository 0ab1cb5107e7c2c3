// Elements from data. Text is always a text node: nothing here, or anywhere on the page, parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `attributes` may hold listeners (`onclick`), `class`, `style` as an object, and plain attributes. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** Another content for an element. What has the focus keeps it, by its id or label, and tables stay where they were scrolled to. */
export function show(element, ...children) {
  const { activeElement } = document, held = element !== activeElement && element.contains(activeElement) ? activeElement : null;
  const scrolled = new Map([...element.querySelectorAll(".table")].map((each) => [each.ariaLabel, [each.scrollLeft, each.scrollTop]]));
  element.replaceChildren(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  for (const each of element.querySelectorAll(".table")) [each.scrollLeft, each.scrollTop] = scrolled.get(each.ariaLabel) ?? [0, 0];
  if (held) (element.contains(held) ? held : likeOf(element, held))?.focus({ preventScroll: true });
  return element;
}

const likeOf = (element, held) => [...element.querySelectorAll(held.tagName)]
  .find((each) => held.id ? each.id === held.id : held.ariaLabel && each.ariaLabel === held.ariaLabel);

/** Give the focus to what has this id. */
export function focusOn(id) {
  document.getElementById(id)?.focus();
}

/** A button that does nothing for now, yet keeps the focus. */
export function rest(button, rests) {
  button.setAttribute("aria-disabled", String(rests));
}

/** A table of cells. Columns: {title, cell, left, wide, wrap}. */
export function table(columns, rows, { caption, rowClass, tight } = {}) {
  const classes = (c) => [c.left && "left", c.wide && "wide", c.wrap && "wrap"].filter(Boolean).join(" ") || null;
  return h("div", { class: tight ? "table tight" : "table", tabindex: "0", role: "group", "aria-label": caption ?? columns[0].title },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((c) => c.title ? h("th", { scope: "col", class: classes(c) }, c.title) : h("td", { class: classes(c) })))),
      h("tbody", {}, rows.map((row) => h("tr", { class: rowClass?.(row) ?? null },
        columns.map((c) => h("td", { class: classes(c) }, c.cell(row))))))));
}

/** A card with a heading. */
export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), children);
}

/** What went wrong, for a person. */
export function failure(error) {
  return h("p", { class: "notice error", role: "alert" }, error.message ?? String(error));
}
