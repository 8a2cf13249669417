// Jobs and models from the JSON API. Text reaches the page through textContent alone, never as HTML.
"use strict";

const REFRESH_MS = 2000;
const PAGE_SIZE = 50;
let jobLimit = PAGE_SIZE;

const byId = (id) => document.getElementById(id);

function element(tag, { text, className, children = [], ...attributes } = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const cell = (children, className) => element("td", { children: [children].flat(), className });
const chip = (text, title) => element("span", title ? { text, title, className: "chip" } : { text, className: "chip" });
const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function took(job) {
  if (!job.started_at) return "";
  const end = job.finished_at ? new Date(job.finished_at) : new Date();
  return duration((end - new Date(job.started_at)) / 1000);
}

function progressOf(job) {
  const progress = job.progress;
  if (job.status === "succeeded") return [element("span", { text: took(job), className: "quiet" })];
  if (!progress || !progress.total) return [element("span", { text: job.status === "running" ? "starting" : "", className: "quiet" })];
  const parts = [`${progress.done} / ${progress.total} ${progress.unit}`, progress.stage || ""];
  if (job.status === "running" && progress.eta_seconds) parts.push(`${duration(progress.eta_seconds)} left`);
  const bar = element("progress", { max: progress.total, value: progress.done, "aria-label": "progress of the job" });
  return [bar, element("div", { text: parts.filter(Boolean).join(" · "), className: "quiet" })];
}

// In steps of 8 bits, as the field writes it, unless it is a round number by itself.
function radius(eps) {
  const levels = Math.round(255 * eps);
  const round = Number(eps.toFixed(2)) === eps;
  return !round && Math.abs(levels / 255 - eps) < 1e-9 ? `${levels}/255` : String(Number(eps.toPrecision(3)));
}

function resultOf(job) {
  if (job.error) return [element("span", { text: job.error.detail || job.error.title || "failed", className: "failed" })];
  const result = job.result;
  if (!result) return [];
  const chips = [];
  if (result.model) chips.push(chip(result.model, "model"));
  if (typeof result.clean_accuracy === "number") chips.push(chip(`clean ${percent(result.clean_accuracy)}`));
  if (typeof result.mean_corruption_accuracy === "number") {
    chips.push(chip(`corrupted ${percent(result.mean_corruption_accuracy)}`, "mean accuracy over corruptions and severities"));
  }
  if (typeof result.knn_accuracy === "number") chips.push(chip(`kNN ${percent(result.knn_accuracy)}`));
  for (const attack of result.attacks || []) {
    const steps = attack.spec.steps ? `-${attack.spec.steps}` : "";
    const norm = attack.spec.norm === "l2" && !attack.name.endsWith("-l2") ? " l2" : "";
    const ball = attack.spec.eps ? `, ${attack.spec.norm} ${radius(attack.spec.eps)}` : "";
    const within = attack.spec.eps ? ` at ${radius(attack.spec.eps)}` : "";
    const label = `${attack.name}${steps}${norm}${within}: ${percent(attack.robust_accuracy)}`;
    chips.push(chip(label, `robust accuracy, ${attack.access || "white-box"}${ball}`));
  }
  for (const warning of result.warnings || []) {
    chips.push(chip(`⚠ ${warning.code}`, [warning.detail, warning.advice].filter(Boolean).join(" → ")));
  }
  for (const row of result.rows || []) {
    const robust = typeof row.pgd === "number" ? ` · PGD ${percent(row.pgd)}` : "";
    const clean = typeof row.clean === "number" ? `clean ${percent(row.clean)}` : "";
    const warnings = row.warnings || [];
    const warned = warnings.length ? ` · ⚠ ${warnings.length}` : "";
    const details = warnings.map((warning) => `${warning.step}: ${warning.code}: ${warning.detail}`).join("\n");
    chips.push(chip(`${row.method}: ${clean}${robust}${warned}`, details));
  }
  return chips;
}

function jobRow(job) {
  const name = [element("a", { text: job.kind, href: `/jobs/${encodeURIComponent(job.id)}` })];
  const method = job.spec.method || job.spec.preset || job.spec.model;
  if (method) name.push(` ${method}`);
  name.push(element("div", { text: job.step || job.id, className: "quiet" }));
  const labels = Object.entries(job.labels).map(([key, value]) => chip(`${key}: ${value}`));
  const created = element("time", { text: new Date(job.created_at).toLocaleString(), datetime: job.created_at, className: "quiet" });
  const row = element("tr", {
    className: job.parent ? "child" : "",
    children: [
      cell(name),
      cell(element("span", { text: job.status, className: `badge ${job.status}` }), "tight"),
      cell(progressOf(job)),
      cell(resultOf(job)),
      cell(labels),
      cell(created, "tight"),
    ],
  });
  row.dataset.job = job.id;
  return row;
}

function modelRow(model) {
  const { card, metrics } = model;
  const aliases = model.aliases.map((alias) => chip(alias));
  const measured = Object.entries(metrics).filter(([key, value]) => key.endsWith("accuracy") && typeof value === "number");
  const link = element("a", { text: model.reference, href: `/models/${encodeURIComponent(model.name)}` });
  const row = element("tr", {
    children: [
      cell(link),
      cell(card.kind),
      cell(card.backbone.width ? `${card.backbone.name}, width ${card.backbone.width}` : card.backbone.name),
      cell(card.image_shape.join(" × "), "tight"),
      cell(card.classes ? String(card.classes.length) : "–"),
      cell(aliases),
      cell(measured.map(([key, value]) => chip(`${key.replaceAll("_", " ")} ${percent(value)}`))),
    ],
  });
  row.dataset.model = model.name;
  return row;
}

async function read(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (response.status === 401) location.assign("/login");
  const body = await response.json();
  if (!response.ok && path !== "/readyz") throw new Error(body.detail || `status ${response.status}`);
  return body;
}

async function readJobs() {
  const items = [];
  let cursor = null;
  do {
    const page = await read(`/jobs?limit=${PAGE_SIZE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < jobLimit);
  return { items, more: Boolean(cursor) };
}

async function refresh() {
  const trouble = byId("trouble");
  try {
    const [jobs, models] = await Promise.all([readJobs(), read("/models?limit=200")]);
    byId("jobs").replaceChildren(...jobs.items.map(jobRow));
    byId("models").replaceChildren(...models.items.map(modelRow));
    byId("no-jobs").hidden = jobs.items.length > 0;
    byId("no-models").hidden = models.items.length > 0;
    byId("more-jobs").hidden = !jobs.more;
    trouble.hidden = true;
  } catch (error) {
    trouble.textContent = `The service does not answer: ${error.message}`;
    trouble.hidden = false;
  }
}

async function refreshReadiness() {
  const badge = byId("readiness");
  try {
    const readiness = await read("/readyz");
    badge.textContent = readiness.status;
    badge.title = readiness.detail;
    badge.className = `badge ${readiness.status.replace(" ", "-")}`;
  } catch {
    badge.textContent = "no answer";
    badge.className = "badge not-ready";
  }
}

async function keepFresh(work, milliseconds) {
  if (!document.hidden) await work();
  setTimeout(keepFresh, milliseconds, work, milliseconds);
}

byId("more-jobs").addEventListener("click", () => {
  jobLimit += PAGE_SIZE;
  refresh();
});
keepFresh(refresh, REFRESH_MS);
keepFresh(refreshReadiness, 5 * REFRESH_MS);
