// The page: pick a model, give it an input, run explanations. What differs between pictures and tables is in picture.js and table.js.

import { byId, element } from "./elements.js";
import * as methods from "./methods.js";
import * as picture from "./picture.js";
import { json, Refused, send, useKey } from "./service.js";
import * as table from "./table.js";

let model; // the card of the chosen model
let view; // picture or table
let loading; // the promise of both: a file may come before them
let running; // AbortController of the work under way

async function start() {
  try {
    const [{ models }] = await Promise.all([json("/v1/models"), methods.load()]);
    byId("key-field").hidden = true;
    byId("model").replaceChildren(
      ...models.map(({ name, ready }) => element("option", { value: name, disabled: !ready }, ready ? name : `${name} (not ready)`)),
    );
    const ready = models.filter((candidate) => candidate.ready).map(({ name }) => name);
    if (!ready.length) return say("No model is ready. Put a folder with a model.onnx into the models folder.");
    const wanted = decodeURIComponent(location.hash.slice(1));
    await choose(ready.includes(wanted) ? wanted : ready.find((name) => name === "shapes") ?? ready[0]);
  } catch (problem) {
    show(problem);
  }
}

async function choose(name) {
  running?.abort();
  byId("model").value = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  model = await json(`/v1/models/${name}`);
  view = model.kind === "image" ? picture : table;
  byId("description").textContent = model.description;
  byId("input-heading").textContent = view.INPUT;
  byId("drop-text").textContent = `Drop a ${view.INPUT.toLowerCase()} here, or choose one`;
  byId("file").accept = view.ACCEPT;
  byId("settings").hidden = true;
  byId("output").replaceChildren(element("p", { class: "empty" }, view.PROMISE));
  byId("problem").replaceChildren();
  say(`Choose a ${view.INPUT.toLowerCase()} or one of the samples.`);
  await listSamples(name);
}

async function listSamples(name) {
  const usable = model.samples.filter((file) => view.SAMPLE.test(file));
  const fetched = async (file) => {
    const origin = `/v1/models/${name}/samples/${file}`;
    const blob = await (await send(origin)).blob();
    return Object.assign(new File([blob], file, { type: blob.type }), { origin });
  };
  const buttons = await Promise.all(
    usable.map(async (file) => {
      const sample = view.PREVIEWED ? await fetched(file) : null;
      const click = async () => take(sample ?? (await fetched(file)));
      return element("li", {}, element("button", { type: "button", class: "sample", click }, view.thumbnail(file, sample)));
    }),
  );
  if (model.name === name) byId("samples").replaceChildren(...buttons);
  performance.mark("usable");
}

async function take(file) {
  await loading;
  if (!view) return;
  byId("file").value = "";
  byId("drop-text").textContent = file.name;
  await work(async (signal) => {
    byId("output").replaceChildren();
    const fields = await view.prepare(model, file, signal).catch((problem) => {
      byId("settings").hidden = true; // they belong to the file before
      throw problem;
    });
    byId("fields").replaceChildren(...fields);
    byId("settings").hidden = false;
    if (view.EAGER) await view.explain(byId("output"), signal, tell);
    else say("Ready: press Explain.");
  });
}

/** Runs one piece of work at a time: clock, cancel button, errors in words. */
async function work(task) {
  running?.abort();
  const mine = (running = new AbortController());
  const began = performance.now();
  const clock = setInterval(() => (byId("clock").textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`), 100);
  byId("problem").replaceChildren();
  byId("working").hidden = false;
  byId("cancel").disabled = false;
  byId("results").setAttribute("aria-busy", "true");
  try {
    await task(mine.signal);
  } catch (problem) {
    if (mine === running) problem.name === "AbortError" ? say("Cancelled.") : show(problem);
  } finally {
    clearInterval(clock);
    if (mine === running) {
      running = undefined;
      byId("working").hidden = true;
      byId("clock").textContent = "";
      byId("cancel").disabled = true;
      byId("results").removeAttribute("aria-busy");
    }
  }
}

/** What goes on: a sentence, and how far it is, where that is known. */
function tell(text, share) {
  say(text);
  const bar = document.querySelector("#working progress");
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}

const say = (text) => (byId("status").textContent = text);

function show(problem) {
  if (!(problem instanceof Refused)) throw problem;
  say("");
  byId("problem").replaceChildren(
    element("h3", {}, problem.title),
    element("p", {}, problem.message),
    problem.requestId ? element("p", { class: "quiet" }, `Request ${problem.requestId}`) : "",
  );
  if (problem.status === 401 || problem.status === 403) {
    byId("key-field").hidden = false;
    byId("key").focus();
  }
}

const change = (name) => (loading = choose(name).catch(show));
byId("model").addEventListener("change", (event) => change(event.target.value));
addEventListener("hashchange", () => {
  const name = decodeURIComponent(location.hash.slice(1));
  if (name && name !== model?.name) change(name);
});
byId("key").addEventListener("change", (event) => {
  useKey(event.target.value);
  loading = start();
});
byId("file").addEventListener("change", (event) => event.target.files.length && take(event.target.files[0]));
byId("cancel").addEventListener("click", () => running?.abort());
byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (byId("settings").hidden) return; // Enter in the key field
  if (matchMedia("(max-width: 50rem)").matches) byId("results").scrollIntoView();
  work((signal) => view.explain(byId("output"), signal, tell));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

loading = start();
