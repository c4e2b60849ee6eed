// The switch that runs, and the one that just failed: one card; below, the journals of the former ones.

import { bytes, clock, duration, find, keyed, make, say, words } from "./dom.js";
import { STAGES, journal, sentence } from "./journal.js";
import { get, onChange, onReturn, post, refreshLists, refreshStatus, station } from "./station.js";

const NEWS_MILLISECONDS = 10000;
const TERMINAL = ["ActivationSucceeded", "ActivationFailed", "ActivationCancelled"];
const ended = new Set();  // ids whose end was told: an answer under way may still call them running
let current = null;   // {id, model, strategy, stage, stageSince, progress, bar, candidate, failure}

let forgetting = 0;
export function tell(text, kind = "") {
  clearTimeout(forgetting);
  say(find("news"), text);
  find("news").className = `note ${kind}`;
  if (kind !== "bad") forgetting = setTimeout(() => say(find("news"), ""), NEWS_MILLISECONDS);
}

export const nameOf = (id) => station.models.find((model) => model.id === id)?.name ?? id;

export async function request(path, body, telling) {
  try {
    if (telling) tell(telling);
    return await post(path, body);
  } catch (error) {
    tell(error instanceof TypeError ? "The station does not answer." : error.message, "bad");
    return null;
  }
}

export function switchTo(model, options = {}) {
  return request("v1/station/switch", { model, ...options }, `Switching to ${nameOf(model)}.`);
}

export function receive(fact) {
  if (fact.event === "Snapshot") {
    current = fact.state.activation && begun(fact.state.activation);
    if (current && current.stage === "download" && fact.state.activation.overall_received_bytes !== null) {
      downloaded(fact.state.activation);
    }
    say(find("news"), "");
  } else if (fact.event === "BackendActivationRequested" && (fact.backend !== null || !current)) {
    current = { ...fact, id: fact.activation, stage: "prepare", stageSince: Date.now(), requirements: undefined };
  } else if (current && fact.activation === current.id) advance(fact);
  if (TERMINAL.includes(fact.event)) ended.add(fact.activation);
  draw();
  if (fact.event !== "DownloadProgressed" && fact.event !== "StageProgressed" && fact.event !== "ProbeFinished") {
    refreshStatus().catch(() => null);
  }
  if (["BackendActivationRequested", ...TERMINAL].includes(fact.event)) {
    refreshLists().catch(() => null);
  }
}

function begun(activation) {
  const since = Date.parse(activation.stage_started_at ?? activation.started_at);
  return { id: activation.id, model: activation.model, strategy: activation.strategy, stage: activation.stage,
    stageSince: Math.min(since, Date.now()) };
}

function advance(fact) {
  if (fact.event === "StageStarted") {
    Object.assign(current, { stage: fact.stage, stageSince: Date.now(), progress: null, bar: null, note: null });
  } else if (fact.event === "DownloadProgressed") downloaded(fact);
  else if (fact.event === "StageProgressed") {
    const show = fact.unit === "bytes" ? bytes : (number) => number.toLocaleString();
    current.progress = `${show(fact.done)}${fact.total === null ? "" : ` of ${show(fact.total)}`}`
      + (fact.unit === "bytes" ? "" : ` ${fact.unit}`);
    current.bar = fact.total ? fact.done / fact.total : null;
  } else if (fact.event === "BuildSelected") current.candidate = sentence(fact);
  else if (fact.event === "ActivationWaiting") current.progress = sentence(fact);
  else if (fact.event === "FallbackChosen") current.candidate = sentence(fact);
  else if (fact.event === "ActivationFailed") {
    current.failure = fact.error;
    current.stage = fact.stage;
    say(find("news"), "");
  } else if (fact.event === "ActivationSucceeded" || fact.event === "ActivationCancelled") {
    const isDone = fact.event === "ActivationSucceeded";
    tell(isDone ? sentence({ ...fact, model: nameOf(fact.model) }) : `The switch to ${nameOf(fact.model)} was cancelled.`);
    current = null;
  }
}

function downloaded(fact) {
  const { overall_received_bytes: received, overall_total_bytes: total } = fact;
  const before = received - (fact.overall_transferred_bytes ?? received);
  current.bar = total ? received / total : null;
  current.progress = [
    `${bytes(received)}${total === null ? "" : ` of ${bytes(total)}`}`,
    fact.bytes_per_second && `${bytes(fact.bytes_per_second)}/s`,
    typeof fact.eta_seconds === "number" && `${duration(fact.eta_seconds)} left`,
    before > 0 && `${bytes(before)} already downloaded`,
  ].filter(Boolean).join(" · ");
}

function draw() {
  const card = find("activation"), failure = current?.failure;
  card.hidden = !current;
  if (!current) return;
  card.classList.toggle("bad-edge", Boolean(failure));
  find("activation-title").textContent = failure
    ? `The switch to ${nameOf(current.model)} failed` : `Switching to ${nameOf(current.model)}`;
  const stages = Object.keys(STAGES), reached = stages.indexOf(current.stage);
  keyed(find("stages"), stages, (stage) => stage, (stage) => make("li", {}, stage), (item, stage) => {
    const at = stages.indexOf(stage);
    item.className = at < reached ? "done" : at === reached && failure ? "failed" : "";
    if (at === reached) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
  const stage = failure ? "" : STAGES[current.stage];
  if (find("stage").textContent !== stage) find("stage").textContent = stage;
  const bar = find("bar");
  bar.hidden = Boolean(failure);
  if (typeof current.bar === "number") bar.value = Math.min(1, current.bar);
  else bar.removeAttribute("value");
  say(find("candidate"), failure ? failure.hint : current.candidate);
  find("cancel").hidden = Boolean(failure);
  find("retry").hidden = find("dismiss").hidden = !failure;
  find("retry").textContent = mayGoOn(failure) ? "Switch anyway" : "Retry";
  tick();
}

const mayGoOn = (failure) => failure?.code === "does-not-fit";

function tick() {
  if (!current) return;
  if (current.failure) { say(find("progress"), current.failure.message); return; }
  const seconds = Math.max(0, Math.floor((Date.now() - current.stageSince) / 1000));
  const elapsed = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  say(find("progress"), [STAGES[current.stage], current.progress, elapsed].filter(Boolean).join(" · "));
}

function outcome(activation) {
  if (activation.outcome === "succeeded") return [`succeeded in ${duration(activation.seconds)}`, "good"];
  const ended = activation.seconds === null ? "" : ` after ${duration(activation.seconds)}`;
  if (activation.outcome === "failed") return [`failed at ${activation.stage}${ended}`, "bad"];
  if (activation.outcome === "cancelled") return [`cancelled at ${activation.stage}${ended}`, "warn"];
  return activation.id === station.status?.activation?.id ? ["running", ""] : ["ended with its process", "warn"];
}

function createItem(activation) {
  const list = make("ol", { className: "journal" });
  const details = make("details", {}, make("summary", {}), make("div", { className: "failure" }), list);
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    try {
      const { events, notes } = await get(`v1/station/activations/${activation.id}`);
      list.replaceChildren(...journal(events), 
        ...(notes.length ? [make("li", {}, make("span"), make("details", {}, make("summary", {}, "What the tools printed"),
          make("pre", { tabIndex: 0 }, notes.join("\n"))))] : []));
    } catch (error) { list.replaceChildren(make("li", {}, make("span"), error.message)); }
  });
  return make("li", {}, details);
}

function updateItem(item, activation) {
  const [text, kind] = outcome(activation), failure = item.querySelector(".failure");
  const state = JSON.stringify([text, nameOf(activation.model)]);
  if (item.dataset.state === state) return;
  item.dataset.state = state;
  const strategy = activation.strategy === "auto" ? "" : `, strategy ${activation.strategy}`;
  item.querySelector("summary").replaceChildren(
    make("strong", {}, nameOf(activation.model)), " ", make("span", { className: kind }, text),
    make("span", { className: "quiet" }, ` · ${new Date(activation.started_at).toLocaleString()}${strategy}`));
  failure.replaceChildren(...(activation.error ? [
    make("p", {}, ...words(activation.error.message)),
    activation.error.hint && make("p", { className: "quiet" }, ...words(activation.error.hint)),
    make("p", { className: "actions" }, retryButton(activation)),
  ].filter(Boolean) : []));
}

function retryButton(activation) {
  const anyway = mayGoOn(activation.error);
  const button = make("button", { type: "button", className: "plain" }, anyway ? "Switch anyway" : "Retry");
  button.addEventListener("click", () => retry(activation, anyway));
  return button;
}

function retry({ model, strategy }, anyway) { return switchTo(model, anyway ? { strategy, anyway } : { strategy }); }

function drawList() {
  find("no-activations").hidden = station.activations.length > 0;
  keyed(find("activations"), station.activations, (activation) => activation.id, createItem, updateItem);
}

export function startActivation() {
  onChange(drawList);
  onChange(() => {  // what runs, where its beginning was missed
    const running = station.status?.activation;
    if (running && !current && !ended.has(running.id)) { current = begun(running); draw(); }
  });
  onReturn(() => { current = null; say(find("news"), ""); draw(); });
  setInterval(tick, 1000);
  find("cancel").addEventListener("click", () => request("v1/station/cancel", {}, "Cancelling."));
  find("retry").addEventListener("click", () => retry(current, mayGoOn(current.failure)));
  find("dismiss").addEventListener("click", () => { current = null; draw(); find("file").focus(); });
}
