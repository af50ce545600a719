// What the service says of its methods: their names for people, and a form for the options of each.

import { choice, element, field } from "./elements.js";
import { json } from "./service.js";

const HANDLED = new Set(["name", "target", "top_k", "layer", "colormap", "alpha", "values", "output", "label", "metrics", "x-request-timeout"]);

let operations;

/** Title, summary and options of each method, from the service's own OpenAPI document. */
export async function load() {
  const { paths } = await json("/openapi.json");
  operations = new Map();
  for (const [path, { post }] of Object.entries(paths)) {
    const method = path.split("/explanations/")[1];
    if (method && post) operations.set(method, post);
  }
}

export const title = (method) => operations.get(method)?.summary ?? method;
export const summary = (method) => (operations.get(method)?.description ?? "").split("\n")[0];
export const takes = (method, name) => parameters(method).some((parameter) => parameter.name === name);

const parameters = (method) => (operations.get(method)?.parameters ?? []).filter((parameter) => parameter.in === "query");

/** A form for the options of these methods; `read(method)` gives those that were set, as query pairs. */
export function options(methods) {
  const controls = new Map();
  for (const method of methods) {
    for (const parameter of parameters(method)) {
      if (!HANDLED.has(parameter.name) && !controls.has(parameter.name)) {
        const control = controlFor(parameter.schema);
        if (control) controls.set(parameter.name, { control, hint: parameter.description });
      }
    }
  }
  const fields = [...controls].map(([name, { control, hint }]) => field(name.replaceAll("_", " "), control, hint));
  const read = (method) =>
    [...controls].filter(([name, { control }]) => takes(method, name) && control.value !== "").map(([name, { control }]) => [name, control.value]);
  return { form: fields.length ? element("details", {}, element("summary", {}, "More options"), ...fields) : null, read };
}

/** An input for one JSON schema, empty for the service's default; null where a text could not say it. */
function controlFor(schema) {
  const kind = schema.anyOf?.find((option) => option.type !== "null") ?? schema;
  if (kind.enum) return choice([["", `default (${schema.default ?? "none"})`], ...kind.enum.map((value) => [value, value])], "");
  if (kind.type === "boolean") return choice([["", "no"], ["true", "yes"]], "");
  if (kind.type === "integer" || kind.type === "number") {
    return element("input", {
      type: "number",
      step: kind.type === "integer" ? 1 : "any",
      min: kind.minimum,
      max: kind.maximum,
      placeholder: schema.default,
    });
  }
  return null;
}
