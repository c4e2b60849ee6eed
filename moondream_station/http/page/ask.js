// An image, a function, a text; the answer as it comes.

import { bytes, duration, find, make, say, words } from "./dom.js";
import { curl, python } from "./snippets.js";
import { show, startOverlay, things } from "./overlay.js";
import { onChange, onReturn, station } from "./station.js";

const MAX_BYTES = 20e6;          // a data URL is a third larger, and a body may have 32 MiB
const MAX_PIXELS = 4096;
const READ_BY_BACKENDS = /^image\/(jpeg|png|webp|gif|bmp)$/;
const STREAMED = ["caption", "query", "segment"];
const TEXT = {
  query: ["question", "Question", "What do you want to know?"],
  detect: ["object", "What to look for", "What to look for, such as: dog"],
  point: ["object", "What to point at", "What to point at, such as: dog"],
  segment: ["object", "What to outline", "What to outline, such as: dog"],
};
const OTHER = [null, "Arguments", "Arguments, such as: length=short; count=3"];

let image = null;      // {name, url: its data}
let asking = null;     // aborts the call that runs

const chosen = () => find("ask").elements.function?.value ?? null;
const titled = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
const endpoint = () => new URL("v1", document.baseURI).href;

// The arguments that the text stands for; null where something is missing.
function argumentsOf(name) {
  const text = find("text").value.trim();
  if (name === "caption") return { length: find("length").value };
  if (name in TEXT) return text ? { [TEXT[name][0]]: text } : null;
  return Object.fromEntries(text.split(";").filter((part) => part.includes("=")).map((part) => {
    const [key, value] = [part.slice(0, part.indexOf("=")).trim(), part.slice(part.indexOf("=") + 1).trim()];
    try { return [key, JSON.parse(value)]; } catch { return [key, value]; }
  }));
}

async function take(file) {
  if (!file) return;
  asking?.abort();
  const place = find("image"), before = place.src;
  place.src = URL.createObjectURL(file);
  try {
    await place.decode();
  } catch {
    URL.revokeObjectURL(place.src);
    place.src = before;
    return hint(`${file.name} is not an image that this browser can show.`, "bad");
  }
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  const isScaled = file.size > MAX_BYTES;
  const content = isScaled || !READ_BY_BACKENDS.test(file.type) ? await redrawn(place, isScaled) : file;
  image = { name: file.name || "pasted.png", url: await dataUrl(content) };
  place.alt = `The image asked about: ${image.name}`;
  find("choose").hidden = true;
  find("picture").hidden = find("image-line").hidden = false;
  find("drop").classList.add("has-image");
  find("image-name").textContent = `${image.name}, ${place.naturalWidth} × ${place.naturalHeight}`
    + (isScaled ? `, sent as ${bytes(content.size)}` : "");
  find("result").hidden = true;
  show(null);
  hint("");
  draw();
}

function redrawn(source, isScaled) {
  const scale = isScaled ? Math.min(1, MAX_PIXELS / Math.max(source.naturalWidth, source.naturalHeight)) : 1;
  const canvas = make("canvas", { width: source.naturalWidth * scale, height: source.naturalHeight * scale });
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, isScaled ? "image/jpeg" : "image/png", 0.92); });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function hint(text, kind = "quiet") {
  say(find("ask-hint"), text);
  find("ask-hint").className = kind;
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
}

function call(name, args) {
  const stream = STREAMED.includes(name);
  const headers = { "Content-Type": "application/json" };
  if (name === "chat") {
    const content = [{ type: "text", text: find("text").value.trim() || "Describe this image." },
      { type: "image_url", image_url: { url: image.url } }];
    return [`v1/chat/completions`, { headers, body: JSON.stringify({ messages: [{ role: "user", content }], stream: true }) }];
  }
  return [`v1/${name}`, { headers, body: JSON.stringify({ image_url: image.url, ...args, ...(stream ? { stream } : {}) }) }];
}

async function ask(event) {
  event.preventDefault();
  const name = chosen(), args = name && argumentsOf(name);
  if (!image) { find("file").focus(); return hint("Choose an image first.", "warn"); }
  if (!args) { find("text").focus(); return hint(`${TEXT[name][2]}`, "warn"); }
  asking?.abort();
  const mine = asking = new AbortController();
  const place = find("answer"), began = performance.now();
  hint("");
  show(null);
  find("result").hidden = false;
  place.className = "";
  place.replaceChildren();
  place.setAttribute("aria-busy", "true");
  find("took").textContent = station.status?.active?.worker === "ready" ? "" : "The model is loading; the answer comes when it is ready.";
  draw();
  try {
    const [path, options] = call(name, args);
    const response = await fetch(path, { method: "POST", signal: mine.signal, ...options });
    const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
    const answer = isStream ? await read(response, place) : await response.json();
    if (answer.error) throw Object.assign(new Error(answer.error.message ?? answer.error), { isAnswer: true });
    complete(place, answer, (performance.now() - began) / 1000);
  } catch (error) {
    if (mine.signal.aborted) { find("took").textContent = "Stopped."; } else {
      find("took").textContent = "";
      place.className = "bad";
      place.replaceChildren(...words(error.isAnswer ? error.message
        : "The station stopped answering. Ask again once it is back."));
    }
  } finally {
    place.removeAttribute("aria-busy");
    if (asking === mine) asking = null;
    draw();
  }
}

async function read(response, place) {
  const answer = {};
  for await (const part of messages(response.body)) {
    const delta = part.choices?.[0]?.delta?.content;
    if (part.error) return part;
    if (part.progress) find("took").textContent = `${part.progress.done} ${part.progress.unit} so far`;
    else if (typeof part.chunk === "string" && part.type === undefined) place.append(part.chunk);
    else if (typeof delta === "string") place.append(delta);
    else if (part.stats) answer._stats = part.stats;
    else if (part.type === "bbox") { answer.bbox = part.bbox; show(answer); }
    else if (part.type === "final") Object.assign(answer, { path: part.path, bbox: part.bbox });
    else Object.assign(answer, part);
  }
  answer.streamed = place.textContent;
  return answer;
}

function complete(place, answer, seconds) {
  const { _stats: stats, streamed, completed, type, ...rest } = answer;
  const found = things(rest), text = streamed || rest.caption || rest.answer;
  show(rest);
  if (typeof text === "string" && text) place.textContent = text;
  else if (found.length) place.textContent = `${found.length} found`;
  else if (Array.isArray(rest.objects) || Array.isArray(rest.points) || "path" in rest) place.textContent = "Nothing found";
  else if (!place.textContent) place.textContent = JSON.stringify(rest, null, 2);
  const speed = text && stats?.tokens > 1 ? `, ${stats.tokens_per_sec} words/s` : "";
  find("took").textContent = `${duration(stats?.duration ?? seconds)}${speed}`;
}

function draw() {
  const name = chosen(), [, label, example] = TEXT[name] ?? (name === "chat" ? [null, "Message", "Your message"] : OTHER);
  const takesText = name !== null && name !== "caption";
  find("text").hidden = !takesText;
  find("length").hidden = name !== "caption";
  find("text").ariaLabel = label;
  find("text").placeholder = example;
  find("send").disabled = name === null || Boolean(station.down);
  find("send").hidden = Boolean(asking);
  find("stop-asking").hidden = !asking;
  const args = (name && argumentsOf(name)) ?? { [TEXT[name]?.[0] ?? "text"]: name === "query" ? "What is in this image?" : "dog" };
  find("endpoint").textContent = endpoint();
  find("curl").textContent = curl(endpoint(), name ?? "caption", args, image?.name ?? "photo.jpg");
  find("python").textContent = python(endpoint(), name ?? "caption", args, image?.name ?? "photo.jpg");
}

let offered = "";
function drawFunctions() {
  const functions = station.status?.worker?.functions ?? [], before = chosen();
  if (functions.join() !== offered) {
    offered = functions.join();
    const first = ["caption", "query", "detect", "point", "segment"].filter((name) => functions.includes(name));
    const names = [...first, ...functions.filter((name) => !first.includes(name))];
    find("functions").replaceChildren(find("functions").firstElementChild, ...names.map((name, at) => make("label", {},
      make("input", { type: "radio", name: "function", value: name, className: "hidden",
        checked: names.includes(before) ? name === before : at === 0 }),
      make("span", {}, titled(name)))));
  }
  if (station.status && !station.status.active) hint("No model is active. Switch to one below.");
  else if (find("ask-hint").textContent.startsWith("No model")) hint("");
  draw();
}

async function copy(button) {
  const label = button.firstChild, text = find(button.dataset.from).textContent;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {  // not allowed, as on plain HTTP from another computer: then it is selected, to be copied by hand
    getSelection().selectAllChildren(find(button.dataset.from));
    label.textContent = "Selected";
  }
  setTimeout(() => { label.textContent = "Copy"; }, 2000);
}

export function startAsk() {
  const drop = find("drop");
  startOverlay();
  onChange(drawFunctions);
  onReturn(() => { if (find("answer").className === "bad") find("result").hidden = true; });
  find("ask").addEventListener("submit", ask);
  find("ask").addEventListener("input", draw);
  find("stop-asking").addEventListener("click", () => asking?.abort());
  find("file").addEventListener("change", ({ target }) => { take(target.files[0]); target.value = ""; });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = event.dataTransfer.files[0];
    return file ? take(file) : hint("Drop an image file here.", "warn");
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((pasted) => pasted.type.startsWith("image/"));
    if (file) { event.preventDefault(); take(file); }
  });
  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", () => copy(button)));
  draw();
}
