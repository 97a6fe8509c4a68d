// The governor: temperatures with their ceilings and forecasts, the rungs that run, and every decision with its reason.

import { colour, fit, make, ms, setText } from "./dom.js";

const SPAN_S = 1800;
const LEAST_S = 60;
const HUES = ["#4da3ff", "#f0883e", "#a371f7", "#39c5cf", "#e3b341", "#db61a2", "#7ee787", "#ff7b72"];
const OLD_S = 3;
const LINES = 40;

export class Heat {
  /** @param {HTMLElement} panel hidden while no governor is heard */
  constructor(panel) {
    this.panel = panel;
    this.facts = panel.querySelector(".heat-facts");
    this.canvas = panel.querySelector("canvas");
    this.zones = panel.querySelector(".heat-zones");
    this.models = panel.querySelector(".heat-models");
    this.list = panel.querySelector(".heat-decisions");
    this.reset();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  reset() {
    this.samples = [];
    this.decisions = [];
    this.state = null;
    this.list.replaceChildren(make("li", { class: "empty" }, "No decision yet"));
  }

  set(view) {
    const heat = view.heat;
    this.panel.hidden = !heat;
    if (!heat) return;
    this.state = heat;
    this.samples.push(...heat.samples);
    this.samples.splice(0, this.samples.findIndex((s) => heat.at - s.at <= SPAN_S));
    if (!heat.decisions.length) return;
    this.decisions.push(...heat.decisions);
    this.decisions.splice(0, this.decisions.length - 200);
    const now = Date.now() - 1000 * heat.at;
    this.list.replaceChildren(...this.decisions.slice(-LINES).reverse().map((d) => {
      const time = new Date(now + 1000 * d.at).toLocaleTimeString("en-GB", { hour12: false });
      return make("li", {}, make("time", {}, time), " ", d.text);
    }));
  }

  hue(i) { return HUES[i % HUES.length]; }

  draw() {
    const heat = this.state;
    if (!heat || this.panel.hidden) return;
    this.drawFacts(heat);
    this.drawRows(heat);
    this.drawChart(heat);
  }

  drawFacts(heat) {
    const silent = heat.age > OLD_S;
    const entries = [
      ["governing by", heat.mode, ""],
      ["condition", silent ? `silent for ${heat.age.toFixed(0)} s: nodes keep what they run` : heat.condition, silent || heat.condition !== "ok" ? "warn" : ""],
      ["until throttling", heat.time_to_throttle === null ? "not in sight" : `${heat.time_to_throttle.toFixed(0)} s`, heat.time_to_throttle === null ? "" : "warn"],
      ["headroom", heat.headroom === null ? "–" : `${(40 * heat.headroom).toFixed(1)} °C`, ""],
      ["decisions", String(heat.decision_count), ""],
      ["model check", heat.model_check || "–", /ALARM/.test(heat.model_check) ? "warn" : ""],
    ];
    if (this.facts.children.length !== entries.length) this.facts.replaceChildren(...entries.map(([name]) => make("div", {}, make("dt", {}, name), make("dd"))));
    entries.forEach(([, text, level], i) => {
      const value = this.facts.children[i].lastChild;
      setText(value, text);
      value.dataset.level = level;
      value.title = text;
    });
  }

  drawRows(heat) {
    const control = heat.zones.filter((z) => z.control);
    const degrees = (v) => (v === null ? "–" : v.toFixed(1));
    fill(this.zones, heat.zones.map((z) => ({
      key: z.name,
      hue: z.control ? this.hue(control.indexOf(z)) : "",
      level: z.celsius === null ? "error" : z.health !== "ok" ? "warn" : "",
      title: z.health,
      cells: [z.name.replace(/^thermal:/, ""), degrees(z.celsius), degrees(z.predicted), degrees(z.ceiling), z.control ? (z.health === "ok" ? "steers" : z.health) : "shown only"],
    })));
    fill(this.models, heat.models.map((m, i) => ({
      key: m.model,
      hue: this.hue(i),
      level: !m.alive ? "error" : m.running && m.running !== m.rung ? "warn" : "",
      title: m.node,
      cells: [m.model, m.alive ? m.rung : "not there", `${(100 * m.rate).toFixed(0)} %`, m.latency === null ? "–" : ms(m.latency), m.expected === null ? "–" : ms(m.expected)],
    })));
  }

  drawChart(heat) {
    const { context, width, height } = fit(this.canvas);
    const samples = this.samples, left = 34, right = 8, split = Math.round(height * 0.7), bottom = height - 16;
    if (width < 80) return;
    const began = samples.length ? samples[0].at : heat.at;
    const span = Math.min(SPAN_S, Math.max(LEAST_S, heat.at - began));
    const x = (at) => width - right - ((heat.at - at) * (width - left - right)) / span;
    const control = heat.zones.filter((z) => z.control);
    const values = samples.flatMap((s) => Object.values(s.zones).flat()).concat(control.flatMap((z) => [z.ceiling, z.celsius])).filter((v) => v !== null);
    const soft = colour("--line"), text = colour("--soft");
    context.font = "10.5px system-ui, sans-serif";
    context.textBaseline = "middle";
    const path = (points, stroke, dash = [], thick = 1.5) => {
      context.setLineDash(dash);
      context.strokeStyle = stroke;
      context.lineWidth = thick;
      context.beginPath();
      let pen = false;
      for (const p of points) {
        if (p === null) { pen = false; continue; }
        if (pen) context.lineTo(...p); else context.moveTo(...p);
        pen = true;
      }
      context.stroke();
      context.setLineDash([]);
    };
    if (values.length) {
      const low = Math.floor((Math.min(...values) - 2) / 5) * 5, high = Math.ceil((Math.max(...values) + 2) / 5) * 5;
      const y = (v) => 6 + ((high - v) * (split - 16)) / Math.max(high - low, 1);
      const step = [5, 10, 20, 50].find((s) => (high - low) / s <= 6) ?? 100;
      for (let v = Math.ceil(low / step) * step; v <= high; v += step) {
        path([[left, Math.round(y(v)) + 0.5], [width - right, Math.round(y(v)) + 0.5]], soft, [], 1);
        context.fillStyle = text;
        context.textAlign = "right";
        context.fillText(`${v}°`, left - 5, y(v));
      }
      control.forEach((zone, i) => {
        if (zone.ceiling !== null) path([[left, y(zone.ceiling)], [width - right, y(zone.ceiling)]], colour("--bad"), [6, 4], 1.2);
        const at = (k) => samples.map((s) => { const v = s.zones[zone.name]?.[k] ?? null; return v === null || heat.at - s.at > span ? null : [x(s.at), y(v)]; });
        path(at(1), `${this.hue(i)}99`, [2, 3], 1.2);
        path(at(0), this.hue(i));
      });
    }
    const top = split + 8, rise = bottom - top;
    path([[left, split + 0.5], [width - right, split + 0.5]], soft, [], 1);
    context.fillStyle = text;
    context.textAlign = "right";
    context.fillText("best", left - 5, top);
    context.fillText("0", left - 5, bottom);
    heat.models.forEach((model, i) => {
      const points = [];
      let last = null;
      for (const s of samples) {
        const value = s.models[model.model]?.[1] ?? null;
        if (value === null) { points.push(null); last = null; continue; }
        const at = bottom - value * rise + (i - (heat.models.length - 1) / 2) * 2;
        if (last !== null) points.push([x(s.at), last]);
        points.push([x(s.at), at]);
        last = at;
      }
      if (last !== null) points.push([width - right, last]);
      path(points, this.hue(i), [], 1.8);
    });
    context.fillStyle = colour("--warn");
    for (const d of this.decisions) {
      if (heat.at - d.at > span) continue;
      context.beginPath();
      context.arc(x(d.at), split, 2.5, 0, 7);
      context.fill();
    }
    context.fillStyle = text;
    context.textAlign = "left";
    context.fillText(`${span >= 120 ? `${(span / 60).toFixed(0)} min` : `${span.toFixed(0)} s`} ago`, left, height - 6);
    context.textAlign = "right";
    context.fillText("now", width - right, height - 6);
    const hottest = control.filter((z) => z.celsius !== null).sort((a, b) => b.celsius - a.celsius)[0];
    this.canvas.setAttribute("aria-label", hottest ? `Temperatures over ${span.toFixed(0)} seconds; hottest now ${hottest.name} with ${hottest.celsius.toFixed(1)} degrees` : "No zone answers");
  }
}

/** Rows of a table body, made once per key. */
function fill(body, rows) {
  const keys = rows.map((r) => r.key).join("\n");
  if (body.dataset.keys !== keys) {
    body.dataset.keys = keys;
    body.replaceChildren(...rows.map((r) => make("tr", {}, make("td", {}, make("i"), make("span")), ...r.cells.slice(1).map(() => make("td")))));
  }
  rows.forEach((row, i) => {
    const line = body.rows[i];
    line.dataset.level = row.level;
    line.title = row.title;
    line.cells[0].firstChild.style.background = row.hue;
    setText(line.cells[0].lastChild, row.cells[0]);
    row.cells.slice(1).forEach((text, k) => setText(line.cells[k + 1], text));
  });
}
