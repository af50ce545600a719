// Small building blocks of the page.

/** An element: `element("p", { class: "quiet" }, "text", child)`. Functions become listeners, true and false attributes. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

let counter = 0;

/** A control under its label. */
export function field(label, control, hint) {
  control.id ||= `control-${++counter}`;
  const parts = [element("label", { for: control.id }, label), control];
  if (hint) {
    const id = `${control.id}-hint`;
    control.setAttribute("aria-describedby", id);
    parts.push(element("p", { id, class: "hint" }, hint));
  }
  return element("div", { class: "field" }, ...parts);
}

/** A select of [value, text] pairs. */
export function choice(options, chosen) {
  return element(
    "select",
    {},
    ...options.map(([value, text]) => element("option", { value, selected: value === chosen }, text)),
  );
}

/** Check boxes under one heading; `read()` gives the values that are ticked. */
export function ticks(heading, options, chosen, onchange) {
  const boxes = options.map(([value]) => element("input", { type: "checkbox", value, checked: chosen.includes(value) }));
  const labels = options.map(([, text, title], index) => element("label", { class: "tick", title }, boxes[index], " ", text));
  const set = element("fieldset", { class: "ticks", change: () => onchange?.() }, element("legend", {}, heading), ...labels);
  return { set, read: () => boxes.filter((box) => box.checked).map((box) => box.value) };
}

/** A button that copies what `text()` gives, and says so. */
export function copier(label, text) {
  const button = element("button", {
    type: "button",
    async click() {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
      } catch {
        button.replaceWith(element("pre", { tabindex: "0" }, text()));
      }
      setTimeout(() => (button.textContent = label), 1500);
    },
  }, label);
  return button;
}

/** Has the browser save a blob. */
export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A number for people: four significant digits, no exponent where it can be helped. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/** A share for people: `98.9 %`. */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** What a reader should know of an answer, as one list; nothing where there is nothing to say. */
export function warnings(texts) {
  const items = [...texts].map((text) => element("li", {}, text));
  return items.length ? element("ul", { class: "warning", "aria-label": "Warnings" }, ...items) : "";
}

/** A table; columns of numbers are right-aligned. */
export function table(caption, heads, rows) {
  const cell = (value) => element("td", { class: typeof value === "number" ? "number" : null }, typeof value === "number" ? number(value) : value ?? "–");
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((head, column) => element("th", { scope: "col", class: typeof rows[0]?.[column] === "number" ? "number" : null }, head)))),
      element("tbody", {}, ...rows.map(([head, ...cells]) => element("tr", {}, element("th", { scope: "row" }, head), ...cells.map(cell)))),
    ),
  );
}
