// Pictures: predictions with bars, heatmaps side by side, opacity, PNG.

import { choice, copier, download, element, field, number, percent, ticks, warnings } from "./elements.js";
import * as methods from "./methods.js";
import { asCurl, asPython, json } from "./service.js";

export const INPUT = "Picture";
export const ACCEPT = "image/png,image/jpeg,image/webp";
export const SAMPLE = /\.(png|jpe?g|webp)$/i;
export const EAGER = true; // explained as soon as it is chosen
export const PROMISE = "The heatmap will stand here: where in the picture the evidence for a class lies.";

const MOST_CLASSES = 5;

let model;
let file;
let address; // of the chosen picture, for <img>
let form; // the controls that `explain` reads
let toolbar; // those of them that stand above the heatmaps

export const PREVIEWED = true; // samples are shown as pictures

export function thumbnail(name, sample) {
  return element("img", { src: URL.createObjectURL(sample), alt: name.replace(/\.\w+$/, "").replaceAll("-", " "), width: 72, height: 72 });
}

/** Asks the model, and gives the controls for its explanation. */
export async function prepare(card, chosen, signal) {
  const { predictions } = await json(`/v1/models/${card.name}/predictions`, { method: "POST", file: upload(chosen), signal });
  if (address) URL.revokeObjectURL(address);
  [model, file, address] = [card, chosen, URL.createObjectURL(chosen)];
  const classes = classPicker(predictions[0].map(asClass));
  const extra = element("div");
  let options;
  const refresh = () => {
    options = methods.options(picked.read());
    extra.replaceChildren(options.form ?? "");
    layer.parentElement.hidden = !picked.read().some((method) => methods.takes(method, "layer"));
  };
  const picked = ticks("Methods", card.explainers.map((name) => [name, methods.title(name), methods.summary(name)]), [card.explainers[0]], refresh);
  const layer = choice(
    [["", "default"], ...card.layers.map(({ name, shape, default: isDefault }) => [name, `${name}, ${shape.join("×")}${isDefault ? " (default)" : ""}`])],
    "",
  );
  const colormap = choice(["turbo", "viridis", "inferno", "jet", "gray"].map((name) => [name, name]), "turbo");
  colormap.addEventListener("change", () => document.getElementById("controls").requestSubmit());
  const opacity = element("input", { type: "range", min: 0, max: 100, value: 55, input: fade });
  form = { classes, picked, layer, colormap, opacity, options: (method) => options.read(method) };
  const fields = [classes.set, picked.set, field("Layer", layer), extra];
  toolbar = element("div", { class: "toolbar" }, field("Opacity of the heatmap", opacity), field("Colours", colormap));
  refresh();
  return fields;
}

/** A regression answers plain numbers: outputs without a probability. */
const asClass = (entry, index) =>
  typeof entry === "number" ? { index, label: model.classes[index] ?? `output ${index}`, score: entry, probability: null } : entry;

const upload = (chosen) => ({ field: "image", blob: chosen, name: chosen.name });

/** The predicted classes with bars, those to explain ticked; any other class can be added. */
function classPicker(predictions) {
  const rows = element("tbody");
  const add = ({ index, label, score, probability }, checked) => {
    const box = element("input", { type: "checkbox", value: index, checked, "aria-label": `Explain ${label}` });
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
    bar.firstChild.style.width = `${100 * (probability ?? 0)}%`;
    const text = probability === null || probability === undefined ? number(score) : percent(probability);
    rows.append(
      element("tr", { click: (event) => event.target !== box && box.click() },
        element("td", {}, box), element("th", { scope: "row" }, label), element("td", { class: "wide" }, bar), element("td", { class: "number" }, text)),
    );
  };
  predictions.slice(0, MOST_CLASSES).forEach((prediction, place) => add(prediction, place === 0));
  const shown = new Set(predictions.slice(0, MOST_CLASSES).map(({ index }) => index));
  const others = model.classes.map((label, index) => [index, label]).filter(([index]) => !shown.has(index));
  const more = element("input", { list: "other-classes", placeholder: "another class …", "aria-label": "Explain another class" });
  more.addEventListener("change", () => {
    const found = others.find(([index, label]) => label === more.value || String(index) === more.value);
    if (!found || shown.has(found[0])) return;
    shown.add(found[0]);
    add(predictions.find(({ index }) => index === found[0]) ?? { index: found[0], label: found[1], score: null }, true);
    more.value = "";
  });
  const set = element(
    "fieldset",
    {},
    element("legend", {}, "Classes, as predicted"),
    element("table", { class: "predictions" }, element("thead", { class: "hidden" }, element("tr", {}, ...["Explain", "Class", "Bar", "Probability"].map((head) => element("th", { scope: "col" }, head)))), rows),
    others.length ? element("datalist", { id: "other-classes" }, ...others.map(([, label]) => element("option", { value: label }))) : null,
    others.length ? more : null,
  );
  return { set, read: () => [...rows.querySelectorAll("input:checked")].map((box) => box.value) };
}

/** Runs every ticked method on every ticked class, and shows the heatmaps side by side. */
export async function explain(output, signal, tell) {
  const chosen = form.picked.read();
  const targets = form.classes.read();
  if (!chosen.length || !targets.length) return tell("Tick at least one class and one method.");
  const cards = element("div", { class: "cards" });
  const noted = element("div");
  output.replaceChildren(noted, toolbar, cards);
  fade();
  const began = performance.now();
  const said = new Set();
  for (const [place, method] of chosen.entries()) {
    const doing = `${methods.title(method)}, ${place + 1} of ${chosen.length} …`;
    tell(doing, chosen.length > 1 ? place / chosen.length : undefined);
    const path = `/v1/models/${model.name}/explanations/${method}`;
    const common = [...form.options(method), ["colormap", form.colormap.value]];
    if (form.layer.value && methods.takes(method, "layer")) common.push(["layer", form.layer.value]);
    // At opacity 1 the overlay is the colours alone; the page lays them over the picture itself.
    const query = [...targets.map((target) => ["target", target]), ...common, ["alpha", "1"]];
    const answer = await json(path, { method: "POST", query, file: upload(file), signal, progress: (share) => tell(doing, (place + share) / chosen.length) });
    for (const explanation of answer.explanations) cards.append(await card(answer, explanation, path, common));
    for (const warning of answer.warnings) said.add(warning);
    noted.replaceChildren(warnings(said));
  }
  const count = cards.children.length;
  tell(`${count} heatmap${count === 1 ? "" : "s"} in ${((performance.now() - began) / 1000).toFixed(2)} s.`);
}

async function card(answer, { target, layer, heatmap, overlay, maximum }, path, common) {
  const method = methods.title(answer.method);
  const peak = maximum > 0 ? await strongest(heatmap) : null;
  const alt = `${method} for ${target.label} over the picture: ${peak ?? "no evidence anywhere"}`;
  const base = element("img", { src: address, alt: "" });
  const colours = element("img", { src: `data:image/png;base64,${overlay}`, alt, class: "colours" });
  base.addEventListener("load", () => base.parentElement.classList.toggle("tiny", base.naturalWidth < 128));
  const save = `${file.name.replace(/\.\w+$/, "")}-${target.label}-${answer.method}.png`.replaceAll(/[^\w.-]+/g, "_");
  const request = { query: [["target", String(target.index)], ...common], file: upload(file), save };
  const facts = [
    target.probability === null ? null : percent(target.probability),
    `score ${number(target.score)}`,
    layer ? `layer ${layer.name}, ${layer.shape.join("×")}` : "at the model's input",
    answer.gradient.source === "none" ? null : `${answer.gradient.source} gradient`,
    `${Number(answer.timings_ms.run.toPrecision(2))} ms`,
  ];
  return element(
    "article",
    { class: "card" },
    element("h3", {}, target.label, " ", element("small", {}, method)),
    element("div", { class: "stack" }, base, colours),
    peak ? scale(answer.method, maximum) : null,
    element("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
    peak ? null : element("p", { class: "warning" }, "No place raised this class's score: the map is zero everywhere."),
    element(
      "div",
      { class: "row" },
      element("button", { type: "button", click: () => savePng(base, colours, save) }, "Download PNG"),
      copier("Copy as curl", () => asCurl(path, request)),
      copier("Copy as Python", () => asPython(path, request)),
    ),
  );
}

/** What the colours mean: every map has a scale of its own, up to its maximum. */
function scale(method, maximum) {
  const ramp = element("span", { class: `ramp ${form.colormap.value}`, role: "img", "aria-label": "Colours from the least evidence to the most" });
  return element("div", { class: "scale" }, methods.zero(method) ? "0" : "least", ramp, number(maximum));
}

/** Where the grey map is brightest, in words. */
async function strongest(heatmap) {
  const image = new Image();
  image.src = `data:image/png;base64,${heatmap}`;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  let best = 0;
  for (let place = 0; place < data.length; place += 4) if (data[place] > data[best]) best = place;
  const [x, y] = [(best / 4) % canvas.width, Math.floor(best / 4 / canvas.width)];
  return `strongest ${Math.round((100 * x) / canvas.width)} % from the left and ${Math.round((100 * y) / canvas.height)} % from the top`;
}

/** The opacity of all heatmaps at once. */
function fade() {
  document.getElementById("output").style.setProperty("--opacity", form.opacity.value / 100);
}

function savePng(base, colours, name) {
  const canvas = element("canvas", { width: colours.naturalWidth, height: colours.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(base, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = form.opacity.value / 100;
  context.drawImage(colours, 0, 0);
  canvas.toBlob((blob) => download(blob, name), "image/png");
}
