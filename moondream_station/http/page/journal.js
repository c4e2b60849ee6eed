// What happened, in sentences: the facts of an activation for people.

import { bytes, clock, count, duration, make, words } from "./dom.js";
import { station } from "./station.js";

const left = (text) => String(text).replaceAll("_", " ");

export function device(report) {
  const brand = report.device === "cpu" && station.status?.capabilities?.cpu_brand;
  return brand || report.device_name || { cpu: "the CPU", mps: "Apple’s GPU" }[report.device] || report.device;
}

export function verified(report) {
  return report.torch ? `torch ${report.torch} computes on ${device(report)}` : "The worker answers; it needs no PyTorch";
}

const differences = (fact) =>
  fact.mismatches.map((at) => `${left(at.field)} should be ${at.planned}, is ${at.found}`).join("; ");

const SENTENCES = {
  BackendActivationRequested: (fact) => `Switch to ${fact.model} requested (strategy ${fact.strategy})`,
  ActivationWaiting: (fact) => `Waiting for process ${fact.holder_pid ?? "?"} (${fact.holder_command ?? "unknown"})`,
  StageStarted: (fact) => STAGES[fact.stage] ?? fact.stage,
  StageProgressed: () => null,
  DownloadProgressed: () => null,
  ProbeFinished: (fact) => `${left(fact.probe)}: ${left(fact.outcome)}. ${fact.detail}`,
  CapabilitiesDetected: (fact) => `Detected this machine in ${duration(fact.seconds)}${fact.from_cache ? " (cached)" : ""}`,
  BuildSelected: (fact) => `Build ${fact.build ?? "none"}${fact.torch ? ` with torch ${fact.torch}` : ""}. ${fact.reason}`,
  RequirementsLocked: (fact) =>
    `Locked ${count(fact.packages, "package")}${fact.total_bytes === null ? "" : `, ${bytes(fact.total_bytes)}`}`,
  EnvironmentBuilt: (fact) => `Environment ${fact.environment} ${fact.reused ? "reused" : `built in ${duration(fact.seconds)}`}`,
  WorkerStarted: (fact) => `Worker started (process ${fact.pid})`,
  WorkerStopped: (fact) => `Worker of ${fact.model} stopped: ${fact.reason}`,
  VerificationCompleted: (fact) => (fact.ok
    ? `Verified: ${verified(fact.report)}${fact.mismatches.length ? `; not as planned: ${differences(fact)}` : ""}`
    : `Verification failed: ${differences(fact)}`),
  FallbackChosen: (fact) => (fact.from_build === fact.to_build
    ? `Staying on ${fact.to_build}: ${fact.reason}` : `From ${fact.from_build} to ${fact.to_build}: ${fact.reason}`),
  ActivationSucceeded: (fact) => `${fact.model} is active after ${duration(fact.seconds)}`
    + (fact.degraded ? `; degraded, because ${fact.degraded.wanted} was planned: ${fact.degraded.reason}` : ""),
  ActivationFailed: (fact) => `Failed at ${fact.stage}: ${fact.error.message}`,
  ActivationCancelled: (fact) => `Cancelled at ${fact.stage} (${fact.reason})`,
};

export const STAGES = {
  prepare: "Preparing", detect: "Detecting this machine", select: "Selecting a build", lock: "Locking requirements",
  download: "Downloading", build: "Building the environment", start: "Starting the worker", verify: "Verifying",
  commit: "Committing",
};
const KINDS = { ActivationSucceeded: "good", ActivationFailed: "bad", ActivationCancelled: "warn" };

export const sentence = (fact) => (SENTENCES[fact.event] ? SENTENCES[fact.event](fact) : left(fact.event));

// A candidate's reason, without the build's name before it.
export const because = ({ build, reason }) => reason.replace(`${build}: `, "").replaceAll(`${build} `, "").trim();

// Every build with its verdict; those that have one reason in common in one line.
export function candidates(selection) {
  const groups = new Map();
  for (const candidate of selection.candidates) {
    const why = because(candidate), key = `${candidate.verdict}: ${why[0].toUpperCase()}${why.slice(1)}`;
    groups.set(key, [...(groups.get(key) ?? []), candidate.build]);
  }
  return [...groups].map(([why, builds]) => make("li", {},
    make("strong", {}, builds.join(", ")), " ", ...words(why)));
}

function line(fact, ...content) {
  return make("li", {}, make("time", { dateTime: fact.at }, clock(fact.at)), make("div", {}, ...content));
}

function folded(summary, items) {
  return make("details", {}, make("summary", {}, summary), make("ul", { className: "plainlist" }, ...items));
}

// A journal as list items: probes folded into one line, of a download its end.
export function journal(events) {
  const probes = events.filter((fact) => fact.event === "ProbeFinished");
  const downloads = events.filter((fact) => fact.event === "DownloadProgressed");
  return events.flatMap((fact) => {
    if (fact.event === "ProbeFinished") {
      if (fact !== probes.at(-1)) return [];
      const found = probes.filter((probe) => probe.outcome === "found").length;
      return [line(fact, folded(`${count(probes.length, "probe")}, ${found} found something`,
        probes.map((probe) => make("li", {}, sentence(probe)))))];
    }
    if (fact.event === "DownloadProgressed") {
      if (fact !== downloads.at(-1)) return [];
      return [line(fact, `Downloaded ${bytes(fact.overall_received_bytes)}, ${bytes(fact.overall_transferred_bytes)} of it now`)];
    }
    if (fact.event === "BuildSelected" && fact.candidates.length > 1) {
      const others = fact.candidates.filter((candidate) => candidate.verdict === "rejected").length;
      return [line(fact, sentence(fact), folded(`Why not the others (${others} rejected)`, candidates(fact)))];
    }
    const text = sentence(fact);
    return text === null ? [] : [line(fact, make("span", { className: KINDS[fact.event] ?? "" }, ...words(text)))];
  });
}
