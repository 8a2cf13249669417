// Jobs and models from the JSON API, read again and again.

import { byId } from "./dom.js";
import { jobRow, modelRow, oddRow } from "./rows.js";

const REFRESH_MS = 2000;
const TIMEOUT_MS = 30000;
const PAGE_SIZE = 50;
const TABLES = [
  { name: "jobs", keyOf: (job) => job.id, rowOf: jobRow, limit: PAGE_SIZE },
  { name: "models", keyOf: (model) => model.name, rowOf: modelRow, limit: PAGE_SIZE },
];

class Trouble extends Error {
  constructor(message, retryAfter = 0) {
    super(message);
    this.retryAfter = retryAfter; // seconds
  }
}

async function read(path, { alsoGood = null } = {}) {
  const asked = fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const response = await asked.catch(() => {
    throw new Trouble("The service does not answer.");
  });
  if (response.status === 401) location.assign("/login");
  const body = await response.json().catch(() => null);
  if (body && (response.ok || response.status === alsoGood)) return body;
  const detail = body?.detail || `${path.split("?")[0]} was answered with status ${response.status}`;
  throw new Trouble(detail, Number(response.headers.get("Retry-After")) || 0);
}

async function readList({ name, limit }) {
  const items = [];
  let cursor = null;
  do {
    const page = await read(`/${name}?limit=${PAGE_SIZE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < limit);
  return { items, more: Boolean(cursor) };
}

function shown(table, item) {
  const key = table.keyOf(item);
  let row;
  try {
    row = table.rowOf(item);
  } catch (error) {
    row = oddRow(table.name, key, error);
  }
  row.dataset.key = key;
  return row;
}

// Cells that did not change stay in the page: what is focused, selected or unfolded there stays so.
function renewed(row, fresh) {
  if (row?.cells.length !== fresh.cells.length) return fresh;
  [...fresh.cells].forEach((cell, index) => {
    if (row.cells[index].source !== cell.source) row.cells[index].replaceWith(cell);
  });
  return row;
}

function show(body, rows) {
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const now = rows.map((fresh) => renewed(before.get(fresh.dataset.key), fresh));
  for (const row of before.values()) if (!now.includes(row)) row.remove();
  now.forEach((row, index) => {
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] || null);
  });
}

// Screen readers say a text anew whenever it is set.
function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

async function refreshTable(table) {
  const { items, more } = await readList(table);
  show(byId(table.name), items.map((item) => shown(table, item)));
  byId(`no-${table.name}`).hidden = items.length > 0;
  byId(`more-${table.name}`).hidden = !more;
}

// The seconds that the service asks to wait.
async function refresh() {
  const outcomes = await Promise.allSettled(TABLES.map(refreshTable));
  const errors = outcomes.flatMap((outcome) => outcome.reason || []);
  say(byId("trouble"), [...new Set(errors.map((error) => error.message))].join(" "));
  return Math.max(0, ...errors.map((error) => error.retryAfter || 0));
}

async function refreshReadiness() {
  let wait = 0;
  let readiness = { status: "no answer", detail: "" };
  try {
    readiness = await read("/readyz", { alsoGood: 503 });
  } catch (error) {
    wait = error.retryAfter || 0; // the tables tell why
  }
  const ready = readiness.status === "ready";
  say(byId("readiness"), readiness.status);
  byId("readiness").className = `badge ${ready ? "ready" : "not-ready"}`;
  say(byId("missing"), ready ? "" : readiness.detail);
  return wait;
}

async function keepFresh(work, milliseconds) {
  const wait = document.hidden ? 0 : 1000 * (await work());
  setTimeout(keepFresh, Math.max(milliseconds, wait), work, milliseconds);
}

for (const table of TABLES) {
  byId(`more-${table.name}`).addEventListener("click", () => {
    table.limit += PAGE_SIZE;
    refresh();
  });
}
keepFresh(refresh, REFRESH_MS);
keepFresh(refreshReadiness, 5 * REFRESH_MS);
