// How the station fares: its worker, its figures, the machine, the log, and what the doctor finds.

import { bytes, clock, count, duration, find, make, rows, say, words } from "./dom.js";
import { candidates, device } from "./journal.js";
import { get, onChange, station } from "./station.js";
import { nameOf, switchTo } from "./activation.js";

const DOCTOR_MILLISECONDS = 120000;
const WORKER = { ready: "", loading: "warn", failed: "bad", stopped: "idle" };
const STATUS = { ok: "good", warning: "warn", error: "bad", skipped: "quiet" };

function drawHead() {
  const active = station.status?.active, chip = find("active");
  chip.textContent = active ? `${nameOf(active.model)} · ${active.worker}` : station.status ? "No model is active" : "";
  chip.className = `chip dot ${active ? WORKER[active.worker] : "idle"}`;
  const version = station.status?.station?.version, { latest_version: latest, messages } = station.manifest;
  find("version").replaceChildren(...[
    version && make("p", {}, `Moondream Station ${version}${latest ? `; ${latest} is available` : ""}`),
    ...(messages ?? []).map(({ message }) => make("p", {}, ...words(message))),
  ].filter(Boolean));
}

function drawTrouble() {
  const { active, worker, activation } = station.status ?? {};
  const failure = worker?.failure;
  const isFailed = Boolean(active && !activation && (failure || active.worker === "failed"));
  find("trouble").hidden = !isFailed;
  if (!isFailed) return;
  find("trouble-title").textContent = `${nameOf(active.model)} does not serve: its worker failed`;
  say(find("trouble-cause"), failure?.message ?? "The worker ended; it is being restarted.");
  say(find("trouble-remedy"), failure?.hint);
  const lines = worker?.last_lines ?? [];
  find("trouble-lines").hidden = !lines.length;
  find("trouble-lines").querySelector("pre").textContent = lines.slice(-20).join("\n");
  find("trouble-again").disabled = Boolean(station.down);
}

// The strategy that the model's environment was made by; another one would make another environment.
function usedStrategy(model) {
  return station.activations.find((known) => known.model === model && known.outcome === "succeeded")?.strategy;
}

// Of all functions together, from their histograms, whose buckets have the same bounds.
function median(functions) {
  const total = functions.reduce((sum, { seconds }) => sum + seconds.count, 0);
  const bounds = functions[0]?.seconds.buckets.map(({ le }) => le) ?? [];
  let before = 0, low = 0;
  for (const [at, high] of bounds.entries()) {
    const upTo = functions.reduce((sum, { seconds }) => sum + seconds.buckets[at].count, 0);
    if (total && upTo >= total / 2) return low + (high - low) * (total / 2 - before) / (upTo - before);
    [before, low] = [upTo, high];
  }
  return total ? low : null;
}

function drawTiles() {
  const { stats, usage } = station;
  if (!stats || !usage) return;
  const { memory, disk, gpus } = usage;
  const tile = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const latency = median(stats.functions);
  const answering = station.status?.calls?.[0];
  find("now").replaceChildren(
    tile(`Requests${stats.timeouts ? `, ${stats.timeouts} timed out` : ""}`, stats.requests_processed.toLocaleString()),
    tile(answering ? `Waiting; answering ${answering.function}` : `Waiting, of ${stats.max_queue_size}`, stats.queue_size.toLocaleString()),
    tile("Median latency", latency === null ? "–" : duration(latency)),
    tile("Worker’s memory", memory.worker_bytes ? bytes(memory.worker_bytes) : "–"),
    tile("Station’s memory", bytes(memory.station_bytes)),
    tile(`Memory free, of ${bytes(memory.total_bytes)}`, bytes(memory.available_bytes)),
    ...gpus.map((gpu) => tile(`Used of ${bytes(gpu.total_bytes)}, ${gpu.name}`, bytes(gpu.used_bytes))),
    tile(`Disk free, of ${bytes(disk.total_bytes)}`, bytes(disk.free_bytes)));
}

function drawMachine() {
  const { active, verification: report, capabilities: machine, worker } = station.status ?? {};
  const computes = report?.torch && (report.compute_ok ? `computes correctly on ${device(report)}` : "computes wrongly");
  rows(find("machine"), [
    ["Build", active && (active.build ? `${active.build}, torch ${report?.torch ?? active.torch}` : "no PyTorch needed")],
    ["PyTorch", computes, report?.compute_ok ? "good" : "bad"],
    ["Degraded", active?.degraded && `${active.degraded.wanted} was planned. ${active.degraded.reason}`, "warn"],
    ["Environment", active?.environment],
    ["Worker", worker?.pid ? `process ${worker.pid}` : null],
    ["System", machine && `${machine.system} ${machine.release}, ${machine.machine}`],
    ["CPU", machine && (machine.cpu_brand ?? (report?.device === "cpu" ? report.device_name : null))],
    ["GPU", machine && (machine.gpus.map((gpu) => gpu.name ?? gpu.vendor).join(", ") || "none found")],
    ["Driver", machine?.nvidia_driver],
    ["Driver’s CUDA", machine?.nvidia_cuda],
    ["Python", machine?.python],
    ...(machine?.notes ?? []).map((note) => ["Note", note, "warn"]),
    ["Machine", machine ? null : "Not detected yet; a switch detects it."],
  ]);
}

let explained = null;
async function explain() {
  const { active } = station.status ?? {};
  if (!find("details").open || !active || explained === active.environment) return;
  explained = active.environment;
  const past = station.activations.filter(
    (known) => known.model === active.model && known.outcome === "succeeded");
  let choice = null;
  for (const { id } of past) {
    const { events } = await get(`v1/station/activations/${id}`);
    if (events.at(-1).environment === active.environment) {
      choice = events.findLast((fact) => fact.event === "BuildSelected") ?? choice;
      if (choice?.candidates.length) break;  // one that went back to the environment chose nothing itself
    }
  }
  say(find("why"), choice ? choice.reason
    : "Its activation is no longer on record. `moondream-station plan` shows what would be chosen now.");
  find("candidates").replaceChildren(...(choice ? candidates(choice) : []));
}

async function drawLog() {
  if (!find("log").open || station.down) return;
  const { lines } = await get("v1/station/logs");
  const place = find("log-lines"), text = lines.join("\n") || "The worker has written nothing.";
  if (place.textContent === text) return;
  const isAtEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 8;
  place.textContent = text;
  if (isAtEnd) place.scrollTop = place.scrollHeight;
}

async function examine() {
  const button = find("examine");
  button.disabled = true;
  find("examined").textContent = "Checking…";
  try {
    const { ok, findings } = await get("v1/station/doctor", DOCTOR_MILLISECONDS);
    const bad = findings.filter((finding) => ["error", "warning"].includes(finding.status));
    find("examined").textContent = `${ok ? "No errors" : "Errors found"}, ${count(findings.length, "check")} at ${clock(Date.now())}.`;
    const rest = findings.filter((finding) => !bad.includes(finding));
    find("findings").replaceChildren(...bad.map(finding), make("li", {}, make("details", {},
      make("summary", {}, `${count(rest.length, "check")} without a finding`), make("ul", { className: "plainlist" }, ...rest.map(finding)))));
  } catch (error) {
    find("examined").replaceChildren(...words(error.message));
  } finally { button.disabled = false; }
}

function finding({ status, section, summary, detail, remedy }) {
  return make("li", {},
    make("strong", { className: STATUS[status] }, status), ` ${section}: `, ...words(summary),
    detail && status !== "ok" ? make("p", { className: "quiet" }, ...words(detail)) : null,
    remedy ? make("p", {}, "Remedy: ", ...words(remedy.text)) : null,
    remedy?.commands.length ? make("pre", {}, remedy.commands.join("\n")) : null);
}

export function startMachine() {
  onChange(() => { drawHead(); drawTrouble(); drawTiles(); drawMachine(); });
  onChange(() => { explain().catch(() => { explained = null; }); drawLog().catch(() => null); });
  find("details").addEventListener("toggle", () => explain().catch(() => { explained = null; }));
  find("log").addEventListener("toggle", () => drawLog().catch(() => null));
  find("examine").addEventListener("click", examine);
  find("trouble-again").addEventListener("click", () => {
    const { model } = station.status.active, strategy = usedStrategy(model);
    return switchTo(model, { anyway: true, ...(strategy ? { strategy } : {}) });
  });
}
