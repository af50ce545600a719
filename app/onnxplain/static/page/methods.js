// What the service says of its methods: their names for people, and a form for the options of each.

import { choice, element, field } from "./elements.js";
import { json } from "./service.js";

const HANDLED = new Set(["target", "top_k", "layer", "colormap", "alpha", "values", "output", "label", "metrics"]);

let known;

/** All methods of the service, with their options as JSON Schema. */
export async function load() {
  const { methods } = await json("/v1/methods");
  known = new Map(methods.map((method) => [method.name, method]));
}

export const title = (name) => known.get(name).title;
export const summary = (name) => known.get(name).summary;
/** Whether zero means no evidence; where not, colours begin at the least value of the map. */
export const zero = (name) => known.get(name).zero;
export const takes = (name, option) => option in known.get(name).options;

/** A form for the options of these methods; `read(method)` gives those that were set, as query pairs. */
export function options(methods) {
  const controls = new Map();
  for (const method of methods) {
    for (const [name, schema] of Object.entries(known.get(method).options)) {
      const control = HANDLED.has(name) || controls.has(name) ? null : controlFor(schema);
      if (control) controls.set(name, { control, hint: schema.description });
    }
  }
  const fields = [...controls].map(([name, { control, hint }]) => field(name.replaceAll("_", " "), control, hint));
  const read = (method) =>
    [...controls].filter(([name, { control }]) => takes(method, name) && control.value !== "").map(([name, { control }]) => [name, control.value]);
  return { form: fields.length ? element("details", {}, element("summary", {}, "More options"), ...fields) : null, read };
}

/** An input for one JSON schema, empty for the service's default; null where a text could not say it. */
function controlFor(schema) {
  if (schema.enum) return choice([["", `default (${schema.default})`], ...schema.enum.map((value) => [value, value])], "");
  if (schema.type === "boolean") return choice([["", "no"], ["true", "yes"]], "");
  if (schema.type === "integer" || schema.type === "number") {
    return element("input", {
      type: "number",
      step: schema.type === "integer" ? 1 : "any",
      min: schema.minimum,
      max: schema.maximum,
      placeholder: schema.default,
    });
  }
  if (schema.anyOf) return element("input", { type: "text", spellcheck: "false" }); // a number or a word: the service says what fits
  return null;
}
