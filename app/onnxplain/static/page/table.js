// Tables: importances as sorted bars with whiskers, as numbers, and as CSV.

import { csvRows } from "./csv.js";
import { choice, copier, download, element, field, number, table, ticks, warnings } from "./elements.js";
import * as methods from "./methods.js";
import { asCurl, asPython, json } from "./service.js";

export const INPUT = "Table";
export const ACCEPT = ".csv,text/csv";
export const SAMPLE = /\.csv$/i;
export const EAGER = false; // may take long: waits for the button
export const PROMISE = "Bars will stand here: how much worse the model gets without each column.";

const METRICS = {
  classification: ["accuracy", "balanced_accuracy", "f1", "f1_macro", "roc_auc", "average_precision", "log_loss", "brier", "prediction_change"],
  regression: ["r2", "rmse", "mse", "mae", "mape", "prediction_change"],
};
const MOST_BARS = 40;

let model;
let file;
let form;

export const PREVIEWED = false; // a sample is fetched when it is chosen

export const thumbnail = (name) => name;

/** Reads the header of the table, and gives the controls for its explanation. */
export async function prepare(card, chosen) {
  [model, file] = [card, chosen];
  const [columns] = csvRows(await chosen.slice(0, 65_536).text());
  const features = new Set(card.features.map(({ name }) => name));
  const guess = columns.findLast((column) => !features.has(column)) ?? "";
  const label = choice([["", "none: measure how far predictions move"], ...columns.map((column) => [column, column])], guess);
  const metrics = METRICS[card.task];
  const wanted = ticks("Metrics", metrics.map((name) => [name, name.replaceAll("_", " ")]), [metrics[0]]);
  const method = choice(card.explainers.map((name) => [name, methods.title(name)]), card.explainers[0]);
  const extra = element("div");
  let options;
  const refresh = () => {
    options = methods.options([method.value]);
    extra.replaceChildren(options.form ?? "");
  };
  method.addEventListener("change", refresh);
  refresh();
  const groups = element("textarea", { rows: 2, placeholder: "size = mean_radius, mean_area", spellcheck: "false" });
  form = { label, wanted, method, groups, options: () => options.read(method.value) };
  return [
    field("Method", method),
    field("Label: the column that holds the truth", label),
    wanted.set,
    field("Groups: columns to permute together", groups, "One a line: name = column, column"),
    extra,
  ];
}

/** What "size = area, radius" lines say: the columns of each group by its name. */
function groupsIn(text) {
  const groups = {};
  for (const line of text.split("\n").filter((line) => line.includes("="))) {
    const [name, columns] = line.split("=", 2);
    groups[name.trim()] = columns.split(",").map((column) => column.trim()).filter(Boolean);
  }
  return groups;
}

/** Runs the method and shows bars and numbers. */
export async function explain(output, signal, tell) {
  const chosen = form.wanted.read();
  if (!chosen.length) return tell("Tick at least one metric.");
  const doing = `${methods.title(form.method.value)} on ${file.name} …`;
  tell(doing);
  const path = `/v1/models/${model.name}/explanations/${form.method.value}`;
  const request = await requestOf(chosen);
  const [answer] = await Promise.all([json(path, { method: "POST", ...request, signal, progress: (share) => tell(doing, share) }), charts()]);
  const shown = element("div");
  const metrics = Object.keys(answer.importances);
  const metric = choice(metrics.map((name) => [name, `${name}, ${number(answer.baseline[name])} on the whole table`]), metrics[0]);
  metric.addEventListener("change", () => draw(shown, answer, metric.value));
  output.replaceChildren(
    field("Metric shown", metric),
    warnings(answer.warnings),
    shown,
    element(
      "div",
      { class: "row" },
      element("button", { type: "button", click: () => download(csv(answer), `${model.name}-importance.csv`) }, "Download CSV"),
      ...(request.document
        ? [element("button", { type: "button", click: () => download(new Blob([JSON.stringify(request.document)]), "request.json") }, "Download request.json")]
        : []),
      copier("Copy as curl", () => asCurl(path, request)),
      copier("Copy as Python", () => asPython(path, request)),
    ),
  );
  draw(shown, answer, metric.value);
  tell(`${answer.n_rows} rows, ${answer.evaluations} evaluations, ${(answer.timings_ms.total / 1000).toFixed(2)} s.`);
}

/** The file as it is; with groups a JSON document, since a query string cannot name them. */
async function requestOf(metrics) {
  const query = [...metrics.map((metric) => ["metrics", metric]), ...form.options()];
  if (form.label.value) query.unshift(["label", form.label.value]);
  const groups = groupsIn(form.groups.value);
  if (!Object.keys(groups).length) return { query, file: { field: "table", blob: file, name: file.name } };
  const [columns, ...rows] = csvRows(await file.text());
  const texts = new Set(model.features.filter(({ dtype }) => dtype === "string").map(({ name }) => name));
  const cell = (text, column) => (text === "" ? null : texts.has(columns[column]) || Number.isNaN(Number(text)) ? text : Number(text));
  return { query, document: { columns, rows: rows.map((row) => row.map(cell)), groups } };
}

/** The charting library, loaded when the first table is explained. */
let loading;
function charts() {
  const script = (name) =>
    new Promise((done, failed) => document.head.append(element("script", { src: `/static/vendor/${name}`, load: done, error: failed })));
  return (loading ??= script("chart.js").then(() => script("chart-error-bars.js")));
}

let painted; // the chart on the page
let repaint; // draws it anew

function draw(shown, answer, metric) {
  const sorted = answer.importances[metric].toSorted((a, b) => b.mean - a.mean);
  const bars = sorted.slice(0, MOST_BARS);
  const canvas = element("canvas", {
    role: "img",
    "aria-label": `Bars: importance for ${metric}, with 95 % intervals; most important is ${sorted[0]?.feature}. The numbers stand in the table below.`,
  });
  const frame = element("div", { class: "chart" }, canvas);
  frame.style.height = `${bars.length * 26 + 70}px`;
  const numbers = table(
    `Importance for ${metric}`,
    ["Feature", "Mean", "95 % from", "to", "Standard deviation"],
    sorted.map((row) => [row.feature, row.mean, row.ci95?.[0], row.ci95?.[1], row.std]),
  );
  const left = sorted.length - bars.length;
  shown.replaceChildren(frame, left > 0 ? element("p", { class: "quiet" }, `${left} less important ones stand in the table only.`) : "", numbers);
  paint(canvas, bars, metric);
}

function paint(canvas, bars, metric) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  painted?.destroy();
  repaint = () => paint(canvas, bars, metric);
  painted = new globalThis.Chart(canvas, {
    type: "barWithErrorBars",
    data: {
      labels: bars.map(({ feature }) => feature),
      datasets: [
        {
          data: bars.map(({ mean, ci95 }) => ({ x: mean, xMin: ci95?.[0] ?? mean, xMax: ci95?.[1] ?? mean })),
          backgroundColor: colour("accent-soft"),
          borderColor: colour("accent"),
          borderWidth: 1,
          errorBarColor: colour("text"),
          errorBarWhiskerColor: colour("text"),
          errorBarLineWidth: 1.5,
          errorBarWhiskerSize: 8,
        },
      ],
    },
    options: {
      indexAxis: "y",
      animation: false,
      maintainAspectRatio: false,
      scales: {
        x: {
          title: { display: true, text: `Drop of the score (${metric}) without the feature`, color: colour("text") },
          ticks: { color: colour("quiet") },
          grid: { color: colour("line") },
        },
        y: { ticks: { color: colour("text"), autoSkip: false }, grid: { display: false } },
      },
      plugins: { legend: { display: false } },
    },
  });
}

// Chart.js paints its colours once: paint again when the theme changes.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint?.());

/** All metrics and repeats, one line a feature and metric. */
function csv(answer) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = ["metric,feature,mean,std,standard_error,ci95_low,ci95_high,values"];
  for (const [metric, rows] of Object.entries(answer.importances)) {
    for (const { feature, mean, std, standard_error: error, ci95, values } of rows) {
      lines.push([metric, quoted(feature), mean, std, error ?? "", ci95?.[0] ?? "", ci95?.[1] ?? "", values.join(" ")].join(","));
    }
  }
  return new Blob([lines.join("\n"), "\n"], { type: "text/csv" });
}
