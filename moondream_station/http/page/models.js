// The models: what is installed, whether they fit, and what can be done with each.

import { find, keyed, make, words } from "./dom.js";
import { because, candidates } from "./journal.js";
import { get, onChange, refreshLists, station } from "./station.js";
import { request, switchTo, tell } from "./activation.js";

const PLAN_MILLISECONDS = 30000;
const current = (id) => station.models.find((model) => model.id === id);

function button(text, name, act, className = "plain") {
  const element = make("button", { type: "button", className }, text);
  element.setAttribute("aria-label", `${text} ${name}`);
  element.addEventListener("click", act);
  return element;
}

// Asks in place, below the model: no dialog that a phone cuts off or a screen reader loses.
function confirm(item, content, yes, act) {
  const place = item.querySelector(".confirm"), before = document.activeElement;
  const close = () => { place.replaceChildren(); if (before?.isConnected) before.focus(); };
  const go = make("button", { type: "button" }, yes);
  const keep = make("button", { type: "button", className: "plain" }, "Leave it");
  go.addEventListener("click", () => { close(); act(); });
  keep.addEventListener("click", close);
  place.onkeydown = (event) => { if (event.key === "Escape") close(); };
  place.replaceChildren(make("div", { className: "warn", role: "alert" }, ...content),
    make("p", { className: "actions" }, go, keep));
  keep.focus();
}

function begin(item, options = {}, warning = null) {
  const model = current(item.dataset.key), { notice, fit } = model;
  const content = [], consent = {};
  if (warning) content.push(make("p", {}, ...words(warning)));
  if (fit?.verdict === "does not fit") {
    content.push(make("p", {}, `${model.name} does not fit this machine: it ${fit.reason}.`));
  }
  if (content.length) consent.anyway = true;
  if (notice && !notice.accepted) {
    consent.accept_notice = true;
    content.push(make("p", {}, notice.text), notice.url && make("p", {}, make("code", {}, notice.url)));
  }
  const go = () => switchTo(model.id, { ...options, ...consent });
  if (!content.length) return go();
  const yes = consent.anyway ? "Switch anyway" : "Accept and switch";
  return confirm(item, content.filter(Boolean), yes, go);
}

function advanced(model) {
  const select = make("select", {}), hidden = make("span", { className: "hidden" }, ` for ${model.name}`);
  const why = make("div", {}), apply = make("button", { type: "button", className: "plain" }, "Switch with this");
  apply.setAttribute("aria-label", `Switch to ${model.name} with this strategy`);
  const label = make("label", {}, make("span", {}, "Which PyTorch build to install", hidden), select);
  const details = make("details", { className: "advanced" },
    make("summary", {}, "Advanced", hidden.cloneNode(true)),
    label, why, make("p", { className: "actions" }, apply));
  why.setAttribute("role", "status");
  const plans = new Map();
  let turn = 0;

  async function show() {
    const mine = ++turn, strategy = select.value;
    apply.disabled = true;
    why.replaceChildren("Looking at what the indexes have…");
    try {
      const query = new URLSearchParams({ model: model.id, strategy });
      const plan = await get(`v1/station/plan?${query}`, PLAN_MILLISECONDS);
      if (mine !== turn) return;
      plans.set(strategy, plan);
      label.hidden = apply.hidden = !plan.requirement.some((text) => /^torch(vision|audio)?\b/.test(text));
      why.replaceChildren(...(label.hidden ? ["It needs no PyTorch, so there is no build to choose."] : told(plan, strategy)));
      apply.disabled = plan.build === null;
    } catch (error) {
      if (mine !== turn) return;
      why.replaceChildren(make("p", { className: "bad" }, ...words(error.message)));
      apply.disabled = false;
    }
  }

  function offer(plan) {
    const named = plan.candidates.map((candidate) => [candidate.build,
      `${candidate.build}${candidate.verdict === "rejected" ? " (can’t work here)" : ""}`]);
    const options = [["auto", "The best for this machine"], ["guide", "As the installation guide says"], ...named];
    select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  }

  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    if (!plans.size) offer({ candidates: [] });
    await show();
    if (plans.has("auto") && select.options.length === 2) {
      const chosen = select.value;
      offer(plans.get("auto"));
      select.value = chosen;
    }
  });
  select.addEventListener("change", show);
  apply.addEventListener("click", () => begin(details.closest("li"), { strategy: select.value },
    warning(plans, select.value)));
  return details;
}

// A build that was rejected and is named all the same: gigabytes that can't help.
function warning(plans, strategy) {
  const rejected = plans.get("auto")?.candidates.find(
    (candidate) => candidate.build === strategy && candidate.verdict === "rejected");
  if (!rejected) return null;
  const why = rejected.reason.startsWith(`${strategy} `) ? ` ${because(rejected)}` : ` can’t work here: ${because(rejected)}`;
  return `The ${strategy} build${why} It would still be downloaded, which may be gigabytes.`;
}

function told(plan, strategy) {
  const rejected = plan.candidates.filter((candidate) => candidate.verdict === "rejected");
  const isNamed = strategy !== "auto" && strategy !== "guide";
  return [
    make("p", { className: plan.build === null ? "bad" : "" },
      ...words(plan.build === null ? plan.reason : `${plan.build} with torch ${plan.torch}. ${isNamed ? "" : plan.reason}`)),
    ...plan.warnings.map((text, at) => make("p", { className: isNamed && at === 0 ? "warn" : "quiet" }, ...words(text))),
    strategy === "auto" && rejected.length > 0 && make("details", {},
      make("summary", {}, `Why not the others (${rejected.length} rejected)`),
      make("ul", { className: "plainlist" }, ...candidates(plan))),
  ].filter(Boolean);
}

function create(model) {
  const item = make("li", {},
    make("div", { className: "head" },
      make("div", {}, make("h3", {}), make("span", { className: "badges" }), make("p", { className: "quiet what" })),
      make("p", { className: "actions" })),
    make("div", { className: "confirm" }),
    make("p", { className: "description" }), make("p", { className: "fit quiet" }));
  if (model.supported) item.append(advanced(model));
  return item;
}

function actions(item, model) {
  const { name, id, environment } = model;
  const isServed = model.active && station.status?.active?.worker === "ready";
  return [
    !model.active && model.supported && button("Switch", name, () => begin(item)),
    isServed && button("Stop", name, () => request("v1/station/stop", {}, `Stopping ${name}; the next request starts it again.`)),
    model.active && environment?.previous && button("Roll back", name, () => confirm(item,
      [make("p", {}, `Go back to the environment that ${name} had before (${environment.previous})?`)], "Roll back",
      () => request("v1/station/rollback", { model: id }, `Rolling ${name} back.`))),
    !model.active && model.installed && button("Remove", name, () => confirm(item,
      [make("p", {}, ...words(`Forget what is installed for ${name}? \`moondream-station prune\` then frees the disk.`))],
      "Remove", async () => {
        if (await request("v1/station/remove", { model: id })) tell(`${name} is removed.`);
        refreshLists().catch(() => null);
      }), "plain danger"),
  ].filter(Boolean);
}

function update(item, model) {
  const state = JSON.stringify([model, model.active && station.status?.active?.worker]);
  if (item.dataset.state === state) return;
  item.dataset.state = state;
  const [title, badges, what, description, fit] = ["h3", ".badges", ".what", ".description", ".fit"]
    .map((selector) => item.querySelector(selector));
  const badge = (text, kind = "") => make("span", { className: `badge ${kind}` }, text);
  title.textContent = model.name;
  badges.replaceChildren(...[
    model.active && badge("active", "good"), !model.active && model.installed && badge("installed"),
    !model.supported && badge("not supported here"),
    model.supported && model.fit?.verdict === "fits" && badge("fits"),
    model.supported && ["does not fit", "tight"].includes(model.fit?.verdict) && badge(model.fit.verdict, "warn"),
  ].filter(Boolean));
  const { environment } = model;
  what.textContent = [model.id, model.version,
    environment && (environment.build
      ? `${environment.build} build, torch ${environment.torch?.split("+")[0]}` : "no PyTorch needed"),
  ].filter(Boolean).join(" · ");
  const required = Object.entries(model.system_requirements ?? {}).map((pair) => pair.join(" ")).join(", ");
  description.textContent = [model.description, required && `Requirements: ${required}.`].filter(Boolean).join(" ");
  const says = model.supported ? model.fit?.verdict !== "unknown" && model.fit?.reason : model.reason;
  fit.textContent = says ? `${says[0].toUpperCase()}${says.slice(1)}.` : "";
  fit.hidden = !says || model.fit?.verdict === "fits";
  const place = item.querySelector(".actions"), at = document.activeElement?.getAttribute?.("aria-label");
  const had = place.contains(document.activeElement);
  place.replaceChildren(...actions(item, model));
  if (had) ([...place.children].find((child) => child.getAttribute("aria-label") === at) ?? item.querySelector("summary"))?.focus();
}

export function startModels() {
  onChange(() => keyed(find("models"), station.models, (model) => model.id, create, update));
}
