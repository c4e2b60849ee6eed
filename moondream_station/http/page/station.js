// The station as the page knows it: what it last said of itself, and whether it answers at all.

import { clock, find } from "./dom.js";

const POLL_MILLISECONDS = 3000;
const PATIENCE_MILLISECONDS = 15000;
const POLLS_A_USAGE = 3;         // asking a GPU's tool takes the machine a moment

export const station = { status: null, stats: null, usage: null, models: [], manifest: {}, activations: [], down: null };
const listeners = [], returns = [];

// Called with nothing when something of `station` has changed.
export function onChange(listener) { listeners.push(listener); }
// Called when the station answers again: what stood there before is stale.
export function onReturn(listener) { returns.push(listener); }
function changed() { listeners.forEach((listener) => listener()); }

export async function get(path, patience = PATIENCE_MILLISECONDS) {
  return read(await fetch(path, { signal: AbortSignal.timeout(patience) }));
}

export async function post(path, body) {
  return read(await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}

async function read(response) {
  const body = await response.json();
  if (!response.ok) {
    throw Object.assign(new Error([body.error.message, body.error.hint].filter(Boolean).join(" ")), body.error);
  }
  return body;
}

let asked = 0, shown = 0;

export async function refreshStatus() {
  const turn = ++asked;
  const status = await get("v1/station");
  if (turn < shown) return;  // a later answer was quicker
  shown = turn;
  station.status = status;
  changed();
}

export async function refreshLists() {
  const [listed, { activations }] = await Promise.all([get("v1/models"), get("v1/station/activations")]);
  Object.assign(station, { models: listed.models, manifest: listed, activations });
  changed();
}

let polls = 0;
async function poll() {
  if (document.visibilityState === "visible" && !station.down) {
    try {
      const usage = polls++ % POLLS_A_USAGE ? station.usage : get("v1/station/usage");
      const [stats, used] = await Promise.all([get("v1/stats"), usage, refreshStatus()]);
      Object.assign(station, { stats, usage: used });
      changed();
    } catch (error) {
      if (error instanceof TypeError || error.name === "TimeoutError") {
        down();
        follow();  // anew: a station that hung leaves its connection open, and tells nothing of what it missed
      }
    }
  }
  setTimeout(poll, POLL_MILLISECONDS);
}

function down() {
  if (station.down) return;
  station.down = Date.now();
  document.body.classList.add("down");
  find("connection").textContent = `No answer since ${clock(station.down)}; reconnecting…`;
  changed();
}

function up() {
  station.down = null;
  document.body.classList.remove("down");
  find("connection").textContent = "Live";
}

let source = null, receive = null;
function follow() {
  source?.close();
  source = new EventSource("v1/station/events");
  source.onopen = async () => {
    if (station.down) returns.forEach((listener) => listener());  // before what was missed is told
    try {
      await Promise.all([refreshStatus(), refreshLists()]);
      up();
      changed();
    } catch { down(); }
  };
  source.onerror = () => {
    down();
    if (source.readyState !== EventSource.CLOSED) return;  // else the browser tries again by itself
    setTimeout(follow, POLL_MILLISECONDS);
  };
  source.onmessage = (message) => receive(JSON.parse(message.data));
}

// Follows the events for as long as the page is open; `receiver` gets each, and the snapshots.
export function start(receiver) {
  receive = receiver;
  follow();
  poll();
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !station.down) refreshStatus().catch(() => null);
  });
}
