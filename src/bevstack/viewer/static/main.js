// The page: takes views from the server, hands them to the panels, reads keys and buttons.

import { BirdsEye } from "./bev.js";
import { Overlay2D } from "./boxes2d.js";
import { Cameras } from "./cameras.js";
import { byId, make, ms, setText } from "./dom.js";
import { Heat } from "./heat.js";
import { Learned } from "./learned.js";
import { Link } from "./link.js";
import { Diagnostics, Latency, Logs, Streams } from "./panels.js";

const SCHEME = window.matchMedia("(prefers-color-scheme: light)");
const remembered = { get: (key) => { try { return localStorage.getItem(key); } catch { return null; } }, set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* private mode */ } } };

let classes = {};
const hidden = new Set();
let least = 0;
let view = null;
let paused = false;
let drawing = false;

const colourOf = (name) => classes[name] ?? "#e6e6e6";
const visible = (box) => box.score >= least && !hidden.has(box.class);

setTheme(remembered.get("theme") ?? (SCHEME.matches ? "light" : "dark"), false);

const bev = new BirdsEye(byId("bev-canvas"), byId("bev-tip"), visible, colourOf);
const overlay = new Overlay2D(visible);
const cameras = new Cameras(byId("cameras"), visible, colourOf, (name) => { bev.camera = name; bev.draw(); }, overlay);
const latency = new Latency(byId("spark"), byId("stages"), byId("latency-figures"));
const streams = new Streams(byId("streams"));
const diagnostics = new Diagnostics(byId("diagnostics"), byId("diagnostics-figures"));
const logs = new Logs(byId("logs"), byId("log-level"), byId("log-text"));
const learned = new Learned(byId("learned"), (camera) => link?.send({ type: "learned", camera }));
const heat = new Heat(byId("heat"));
const link = new Link(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);

// -- what arrives

link.addEventListener("hello", ({ detail }) => {
  classes = detail.classes;
  // A new server begins to count anew.
  latency.reset();
  logs.reset();
  heat.reset();
  buildLegend();
});
link.addEventListener("open", () => learned.tell());
link.addEventListener("lost", () => pill("lost", "connection lost, trying again"));
link.addEventListener("view", async ({ detail }) => {
  const incoming = detail.view;
  const images = new Map();
  await Promise.all(incoming.cameras.map(async (camera) => {
    if (!camera.image) return;
    try {
      images.set(camera.name, await createImageBitmap(detail.bytes(camera.image)));
    } catch {
      camera.broken = true; // not decodable here: the tile says so
    }
  }));
  view = incoming;
  cameras.set(view, images);
  bev.set(view);
  latency.set(view);
  streams.set(view);
  diagnostics.set(view);
  logs.set(view);
  learned.set(view, detail.bytes);
  heat.set(view);
  if (drawing) return;
  drawing = true;
  // A hidden page draws nothing, so it asks for nothing.
  requestAnimationFrame(() => {
    drawing = false;
    redraw();
    link.acknowledge(view.seq);
    document.documentElement.dataset.seq = view.seq;
  });
});

function redraw() {
  if (!view) return;
  cameras.draw();
  bev.draw();
  latency.draw();
  learned.draw();
  heat.draw();
  head();
  legendCounts();
}

function head() {
  const status = view.status;
  const live = view.cameras.some((c) => c.age_s !== null && c.age_s < 2);
  if (paused) pill("paused", "paused");
  else if (view.ended) pill("ended", "end of source");
  else if (live) pill("live", "live");
  else pill("waiting", view.cameras.length ? "no images" : "waiting");
  setText(byId("source"), view.about.source ?? "");
  byId("source").title = view.about.source ?? "";
  fact("boxes", `${view.boxes.filter(visible).length}`);
  fact("rate", view.output_rate.toFixed(1));
  const recorder = view.diagnostics.find((d) => /record/i.test(d.name));
  fact("recorder", recorder ? recorderText(recorder) : "off", recorder ? (recorder.level === "error" ? "bad" : recorder.level === "ok" ? "rec" : "warn") : "");
  byId("truth-option").hidden = !view.truth.length && byId("truth-option").hidden;
  const flat = view.status2d;
  byId("fact-2d-place").hidden = byId("option-2d").hidden = !flat;
  if (flat) fact("2d", `${flat.rung} · ${view.cameras.reduce((n, c) => n + overlay.shown(c).length, 0)} boxes`);
  const reason = byId("reason");
  reason.hidden = !status?.reason;
  setText(reason, status?.reason ?? "");
  if (!status) return;
  fact("rung", status.rung || "–");
  fact("engine", status.engine || "–");
  fact("latency", ms(status.latency_ms));
  fact("instants", `${status.instants_in} / ${status.instants_out}`);
  const ratio = status.frame_drop_ratio;
  fact("drops", `${status.instants_dropped} (${(100 * ratio).toFixed(ratio > 0 && ratio < 0.1 ? 1 : 0)} %)`, ratio > 0.2 ? "bad" : ratio > 0 ? "warn" : "");
}

function recorderText(recorder) {
  const size = recorder.values["megabytes"] ?? recorder.values["size"] ?? recorder.values["messages"];
  return size === undefined ? recorder.message || recorder.level : recorder.values["megabytes"] ? `${size} MB` : size;
}

function fact(name, text, level = "") {
  const element = byId(`fact-${name}`);
  setText(element, text);
  element.dataset.level = level;
}

function pill(state, text) {
  const element = byId("link");
  element.dataset.state = state;
  setText(element, text);
}

// -- classes

function buildLegend() {
  byId("legend").replaceChildren(...Object.entries(classes).map(([name, colour]) => {
    const swatch = make("i");
    swatch.style.background = colour;
    const button = make("button", { type: "button", dataset: { name }, title: "Show or hide this class" }, swatch, name.replace("_", " "), make("b", {}, "0"));
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    button.addEventListener("click", () => {
      hidden.has(name) ? hidden.delete(name) : hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      redraw();
    });
    return button;
  }));
}

function legendCounts() {
  const counts = {};
  for (const box of view.boxes) if (box.score >= least) counts[box.class] = (counts[box.class] ?? 0) + 1;
  for (const button of byId("legend").children) {
    const count = counts[button.dataset.name] ?? 0;
    setText(button.lastChild, String(count));
    button.classList.toggle("none", !count);
  }
}

// -- buttons and keys

function setPaused(value) {
  paused = value;
  link.pause(value);
  byId("pause").setAttribute("aria-pressed", String(value));
  setText(byId("pause").querySelector(".text"), value ? "Go on" : "Pause");
  if (view) head();
}

function setTheme(name, keep = true) {
  document.documentElement.dataset.theme = name;
  setText(byId("theme"), name === "light" ? "Dark" : "Light");
  if (keep) remembered.set("theme", name);
}

function switchTheme() {
  setTheme(document.documentElement.dataset.theme === "light" ? "dark" : "light");
  bev.theme();
  latency.draw();
  heat.draw();
}

function option(id, apply) {
  byId(id).addEventListener("input", (event) => { apply(event.target); redraw(); bev.draw(); });
}
option("show-labels", (input) => { bev.show.labels = input.checked; });
option("show-velocity", (input) => { bev.show.velocity = input.checked; });
option("show-truth", (input) => { bev.show.truth = input.checked; });
option("show-2d", (input) => { overlay.show = input.checked; });
option("score", (input) => { least = Number(input.value); setText(byId("score-value"), least.toFixed(2)); });

byId("pause").addEventListener("click", () => setPaused(!paused));
byId("theme").addEventListener("click", switchTheme);
byId("help-open").addEventListener("click", () => byId("help").showModal());
byId("zoom-in").addEventListener("click", () => bev.zoomBy(1.4));
byId("zoom-out").addEventListener("click", () => bev.zoomBy(1 / 1.4));
byId("zoom-home").addEventListener("click", () => bev.home());

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (target.matches("input[type=search], select")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const actions = {
    "t": switchTheme, "T": switchTheme, "?": () => byId("help").showModal(),
    "+": () => bev.zoomBy(1.4), "=": () => bev.zoomBy(1.4), "-": () => bev.zoomBy(1 / 1.4), "0": () => bev.home(),
    "/": () => byId("log-text").focus(), "Escape": () => cameras.large && cameras.toggle(cameras.large),
  };
  if (event.key === " " && !target.matches("button, input, summary")) actions[" "] = () => setPaused(!paused);
  if (/^[1-9]$/.test(event.key)) actions[event.key] = () => cameras.toggleIndex(Number(event.key) - 1);
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
