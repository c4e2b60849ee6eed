// Boxes, points and outlines over the image, in the colours of `--save`.

import { find, make } from "./dom.js";

const COLOURS = ["#e63946", "#1d35bb", "#069469", "#f48c06", "#7209b7", "#0096c7"];
const SVG = "http://www.w3.org/2000/svg";
const POINT_PIXELS = 7;
let answer = null;

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  element.setAttribute("vector-effect", "non-scaling-stroke");
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isBox = (box) => box && [box.x_min, box.y_min, box.x_max, box.y_max].every(isNumber);
const list = (value) => (Array.isArray(value) ? value : []);
const percent = (part) => `${Math.round(part * 100)}%`;

// What an answer found: [kind, value] each, kinds box, point and outline.
export function things(answer) {
  return [
    ...list(answer?.objects).filter(isBox).map((box) => ["box", box]),
    ...list(answer?.points).filter((point) => isNumber(point?.x) && isNumber(point?.y)).map((point) => ["point", point]),
    ...(typeof answer?.path === "string" && answer.path ? [["outline", answer]] : isBox(answer?.bbox) ? [["box", answer.bbox]] : []),
  ];
}

function described([kind, value]) {
  if (kind === "point") return `point at ${percent(value.x)} from the left, ${percent(value.y)} from the top`;
  const box = kind === "outline" ? value.bbox : value;
  if (!isBox(box)) return "outline";
  return `${kind} from ${percent(box.x_min)}, ${percent(box.y_min)} to ${percent(box.x_max)}, ${percent(box.y_max)}`;
}

function drawn([kind, value], colour, width, height, scale) {
  if (kind === "point") {
    return [shape("circle", { cx: value.x * width, cy: value.y * height, r: POINT_PIXELS * scale,
      fill: colour, stroke: "#fff", "stroke-width": 2 })];
  }
  // A white line below the coloured one, so that it shows on a ground of its own colour.
  const outlined = (tag, place) => [
    shape(tag, { ...place, stroke: "#fff", "stroke-width": 6, "stroke-opacity": 0.8, fill: "none" }),
    shape(tag, { ...place, stroke: colour, "stroke-width": 3, fill: kind === "box" ? "none" : colour, "fill-opacity": 0.35 }),
  ];
  if (kind === "box") {
    return outlined("rect", { x: value.x_min * width, y: value.y_min * height, rx: 2 * scale,
      width: Math.max(0, value.x_max - value.x_min) * width, height: Math.max(0, value.y_max - value.y_min) * height });
  }
  const box = isBox(value.bbox) ? value.bbox : { x_min: 0, y_min: 0, x_max: 1, y_max: 1 };
  // The outline is in fractions of its box.
  const place = `translate(${box.x_min * width} ${box.y_min * height})`
    + ` scale(${(box.x_max - box.x_min) * width} ${(box.y_max - box.y_min) * height})`;
  return outlined("path", { d: value.path, transform: place });
}

function draw() {
  const image = find("image"), overlay = find("overlay");
  const { naturalWidth: width, naturalHeight: height, clientWidth: shown } = image;
  if (!width || !shown) return;
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.setAttribute("preserveAspectRatio", "none");
  overlay.replaceChildren(...things(answer).flatMap((thing, at) =>
    drawn(thing, COLOURS[at % COLOURS.length], width, height, width / shown)));
}

// Shows what an answer found, null for nothing: over the image, and in words for who does not see it.
export function show(next) {
  answer = next;
  draw();
  find("found").replaceChildren(...things(answer).map((thing, at) => {
    const item = make("li", {}, described(thing));
    item.style.setProperty("--colour", COLOURS[at % COLOURS.length]);
    return item;
  }));
}

export function startOverlay() { new ResizeObserver(draw).observe(find("image")); }
