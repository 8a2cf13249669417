// One job, one model: a row of the page's tables.

import { cell, chip, element, quiet } from "./dom.js";
import { percent, resultOf } from "./results.js";

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// Pauses between its attempts count.
function took({ started_at: start, finished_at: end }) {
  return start && end ? `${duration((new Date(end) - new Date(start)) / 1000)} from start to end` : "";
}

function progressOf(job) {
  const progress = job.progress;
  if (job.status === "succeeded") return quiet(took(job));
  if (!progress || !progress.total) return quiet(job.status === "running" ? "starting" : "");
  const parts = [`${progress.done} / ${progress.total} ${progress.unit}`, progress.stage || ""];
  if (job.status === "running" && progress.eta_seconds) parts.push(`${duration(progress.eta_seconds)} left`);
  const bar = element("progress", { max: progress.total, value: progress.done, "aria-label": "progress of the job" });
  return [bar, quiet(parts.filter(Boolean).join(" · "))];
}

export function jobRow(job) {
  const name = [element("a", { text: job.kind, href: `/jobs/${encodeURIComponent(job.id)}` })];
  const method = job.spec.method || job.spec.preset || job.spec.model;
  if (method) name.push(` ${method}`);
  const created = new Date(job.created_at).toLocaleString();
  const time = element("time", { text: created, datetime: job.created_at, className: "quiet" });
  const chips = Object.entries(job.labels).map(([key, value]) => chip(`${key}: ${value}`));
  const labels = element("div", { children: chips });
  return element("tr", {
    className: job.parent ? "child" : "",
    children: [
      cell([...name, quiet(job.step || job.id), time, labels]),
      cell(element("span", { text: job.status, className: `badge ${job.status}` }), { class: "tight" }),
      cell(progressOf(job)),
      cell(resultOf(job)),
    ],
  });
}

export function modelRow({ name, reference, card, metrics, all_aliases: aliases }) {
  const { backbone } = card;
  const named = Object.entries(aliases).map(([alias, version]) => chip(`${alias} → @${version}`));
  const measured = Object.entries(metrics)
    .filter(([key, value]) => key.endsWith("accuracy") && typeof value === "number")
    .map(([key, value]) => chip(`${key.replaceAll("_", " ")} ${percent(value)}`));
  return element("tr", {
    children: [
      cell(element("a", { text: reference, href: `/models/${encodeURIComponent(name)}` })),
      cell(card.kind, { label: "Kind" }),
      cell(backbone.width ? `${backbone.name}, width ${backbone.width}` : backbone.name, { label: "Backbone" }),
      cell(card.image_shape.join(" × "), { label: "Images", class: "tight" }),
      cell(card.classes ? String(card.classes.length) : "–", { label: "Classes" }),
      cell(named, { label: "Aliases" }),
      cell(measured, { label: "Measured" }),
    ],
  });
}

export function oddRow(list, key, error) {
  const link = element("a", { text: key, href: `/${list}/${encodeURIComponent(key)}` });
  const text = `cannot be shown here: ${error.message}`;
  return element("tr", { children: [cell(link), cell(text, { class: "failed", colspan: 3 })] });
}
