// What came out of a job: every accuracy with its interval, its number of images and the ball that it holds in.

import { chip, element, quiet, unfolding } from "./dom.js";

const MINUS = "–";
const isNumber = (value) => typeof value === "number";
export const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const interval = (ci95) => (ci95 ? ci95.map((bound) => (100 * bound).toFixed(1)).join(MINUS) : "");

// In steps of 8 bits, as the field writes it, unless it is a round number by itself.
function radius(eps) {
  const levels = Math.round(255 * eps);
  const round = Number(eps.toFixed(2)) === eps;
  return !round && Math.abs(levels / 255 - eps) < 1e-9 ? `${levels}/255` : String(Number(eps.toPrecision(3)));
}

const named = (name, spec) => (spec.steps ? `${name}-${spec.steps}` : name);

function size(spec) {
  if (isNumber(spec.eps)) return `${spec.norm || "linf"} ${radius(spec.eps)}`;
  if (isNumber(spec.std)) return `std ${radius(spec.std)}`;
  return `${spec.norm || ""} without a budget`.trim();
}

function attackLabel({ name, spec, access = "white-box" }) {
  const crafting = spec.attack; // of images that were attacked on another model
  if (crafting) return `${name} of ${named(crafting.name, crafting)} from ${spec.source}, ${size(crafting)}`;
  return [named(name, spec), size(spec), access].filter((part) => part !== "white-box").join(", ");
}

function attackRow(attack) {
  const label = attackLabel(attack);
  const counted = !attack.note || isNumber(attack.spec.eps);
  if (counted) return [label, percent(attack.robust_accuracy), interval(attack.ci95)];
  const median = attack[`median_${attack.spec.norm}`];
  const broken = isNumber(attack.success_rate) ? `breaks ${percent(attack.success_rate)}` : "";
  return [label, `median ${isNumber(median) ? median.toPrecision(3) : MINUS}`, broken];
}

// One attack is its own worst case.
function worstRows({ worst_cases: cases = [], worst_case_accuracy: overall }) {
  const rows = cases
    .filter((worst) => worst.attacks.length > 1)
    .map((worst) => [`worst case, ${size(worst)}`, percent(worst.accuracy), interval(worst.ci95)]);
  if (cases.length !== 1 && isNumber(overall)) rows.push(["worst case of all", percent(overall), ""]);
  return rows;
}

function figures(caption, head, rows) {
  const titles = head.map((text) => (text ? element("th", { text, scope: "col" }) : element("td")));
  const lines = rows.map(([label, ...values]) =>
    element("tr", { children: [element("th", { text: label, scope: "row" }), ...values.map(figure)] }),
  );
  const parts = [
    element("caption", { text: caption }),
    element("thead", { children: [element("tr", { children: titles })] }),
    element("tbody", { children: lines }),
  ];
  return element("div", { className: "scroll", children: [element("table", { className: "figures", children: parts })] });
}

const figure = (value) => element("td", { children: [value].flat() });
const images = (count) => `${count.toLocaleString("en")} images`;

function evaluated(result) {
  const rows = [["clean", percent(result.clean_accuracy), interval(result.clean_ci95)]];
  rows.push(...(result.attacks || []).map(attackRow), ...worstRows(result));
  if (isNumber(result.mean_corruption_accuracy)) {
    const worst = result.worst_corruption;
    rows.push([`corrupted, mean of ${result.corruptions.length}`, percent(result.mean_corruption_accuracy), ""]);
    rows.push([`worst: ${worst.name}`, percent(worst.mean_accuracy), ""]);
  }
  const caption = `${result.model} on ${images(result.dataset.size)} of ${result.dataset.name}`;
  return [figures(caption, ["", "accuracy", "95 % interval"], rows)];
}

function trained(result) {
  const chips = result.model ? [chip(result.model)] : [];
  if (isNumber(result.clean_accuracy)) chips.push(chip(`clean ${percent(result.clean_accuracy)}`));
  if (isNumber(result.knn_accuracy)) chips.push(chip(`kNN ${percent(result.knn_accuracy)}`));
  return chips;
}

// A column an attack, the names of which stand beside the row's other fields.
function compared({ rows, protocol }, asked) {
  const names = [...new Set(rows.flatMap((row) => ["clean", ...Object.keys(row.ci95)]))];
  const measured = (row, name) =>
    isNumber(row[name]) ? [percent(row[name]), quiet(interval(row.ci95[name]))] : MINUS;
  const lines = rows.map((row) => [row.method, ...names.map((name) => measured(row, name))]);
  const attacks = asked
    ? asked.map((spec) => attackLabel({ name: spec.name, spec })).join("; ")
    : `${size(protocol)}, ${protocol.steps} steps`;
  const caption = `${protocol.threat_model}, ${attacks}; ${images(protocol.images)}, 95 % intervals`;
  return [figures(caption, ["", ...names], lines)];
}

function requirement({ attack, need, got, met }) {
  const text = `required ${attack} ${need}: ${percent(got)}, ${met ? "met" : "not met"}`;
  return element("div", { text, className: met ? "succeeded" : "failed" });
}

function doubts(result) {
  const notes = (result.attacks || []).filter((attack) => attack.note);
  const warnings = [
    ...(result.warnings || []).map((warning) => ["", warning]),
    ...(result.rows || []).flatMap((row) => (row.warnings || []).map((warning) => [`${row.method}: `, warning])),
  ];
  return [
    ...notes.map((attack) => unfolding(`About ${attackLabel(attack)}`, attack.note)),
    ...warnings.map(([whose, { code, step, detail, advice }]) =>
      unfolding(`⚠ ${whose}${code}`, [step ? `${step}: ${detail}` : detail, advice].filter(Boolean).join(" → ")),
    ),
  ];
}

export function resultOf({ error, result, spec }) {
  if (error) return [element("span", { text: error.detail || error.title || "failed", className: "failed" })];
  if (!result) return [];
  const numbers = result.rows ? compared(result, spec.attacks) : result.dataset ? evaluated(result) : trained(result);
  return [...numbers, ...(result.requirements || []).map(requirement), ...doubts(result)];
}
