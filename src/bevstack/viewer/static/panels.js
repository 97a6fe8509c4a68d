// Latency, streams, diagnostics, log.

import { colour, fit, make, ms, quantile, setText } from "./dom.js";

const KEPT = 240;

export class Latency {
  constructor(canvas, list, figures) {
    Object.assign(this, { canvas, list, figures });
    this.total = [];
    this.stages = new Map(); // name -> {values, row}
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() { this.total = []; this.stages.clear(); this.list.replaceChildren(); }

  set(view) {
    this.total.push(...view.history);
    this.total.splice(0, this.total.length - KEPT);
    const status = view.status;
    if (!status?.stages.length) return;
    if (!this.stages.size) this.list.replaceChildren();
    // The model's own sum and the whole way come last, apart from the stages that they are made of.
    const stages = status.stages.filter((s) => s.name !== "total"), model = status.stages.find((s) => s.name === "total");
    const entries = [...stages.map((s) => [s.name, s.ms]), ...(model ? [["total", model.ms]] : []), ["latency", status.latency_ms]];
    for (const name of [...this.stages.keys()]) if (!entries.some(([n]) => n === name)) { this.stages.get(name).row.remove(); this.stages.delete(name); }
    for (const [name, value] of entries) {
      const stage = this.stages.get(name) ?? this.add(name);
      if (view.history.length || !stage.values.length) stage.values.push(value);
      stage.values.splice(0, stage.values.length - KEPT / 2);
      stage.now = value;
    }
    if (model) this.list.append(this.stages.get("total").row);
    this.list.append(this.stages.get("latency").row);
  }

  add(name) {
    const fill = make("div", { class: "fill" }), peak = make("div", { class: "peak", title: "95 of 100 are below" });
    const value = make("span", { class: "ms" });
    const label = { latency: "end to end", total: "model" }[name] ?? name;
    const row = make("li", { class: { latency: "total", total: "sum" }[name] ?? "" },
      make("span", { class: "name", title: label }, label), make("div", { class: "track" }, fill, peak), value);
    this.list.append(row);
    const stage = { values: [], row, fill, peak, value, now: 0 };
    this.stages.set(name, stage);
    return stage;
  }

  draw() {
    const top = Math.max(1e-3, ...[...this.stages.values()].map((s) => Math.max(s.now, quantile(s.values, 0.95))));
    for (const stage of this.stages.values()) {
      stage.fill.style.width = `${(100 * stage.now) / top}%`;
      stage.peak.style.left = `calc(${(100 * quantile(stage.values, 0.95)) / top}% - 2px)`;
      setText(stage.value, ms(stage.now));
    }
    this.drawSpark();
  }

  drawSpark() {
    const { context, width, height } = fit(this.canvas);
    const values = this.total;
    if (values.length < 2) return;
    const p50 = quantile(values, 0.5), p95 = quantile(values, 0.95), most = Math.max(...values);
    setText(this.figures, `p50 ${ms(p50)} · p95 ${ms(p95)} · max ${ms(most)}`);
    const top = Math.max(Math.min(most, p95 * 2), p95) * 1.12, pad = 2;
    const x = (i) => width - ((values.length - 1 - i) * width) / (KEPT - 1);
    const y = (v) => height - pad - (Math.min(v, top) / top) * (height - 2 * pad);
    const line = colour("--good"), soft = colour("--line");
    context.strokeStyle = soft;
    context.lineWidth = 1;
    context.setLineDash([3, 3]);
    for (const v of [p50, p95]) { context.beginPath(); context.moveTo(0, Math.round(y(v)) + 0.5); context.lineTo(width, Math.round(y(v)) + 0.5); context.stroke(); }
    context.setLineDash([]);
    context.beginPath();
    values.forEach((v, i) => (i ? context.lineTo(x(i), y(v)) : context.moveTo(x(i), y(v))));
    context.strokeStyle = line;
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, height); context.lineTo(x(0), height); context.closePath();
    context.fillStyle = line + "22";
    context.fill();
    this.canvas.setAttribute("aria-label", `Latency over the last ${values.length} instants: ${this.figures.textContent}`);
  }
}

export class Streams {
  constructor(body) { this.body = body; this.rows = new Map(); }

  set(view) {
    for (const name of [...this.rows.keys()]) if (!view.cameras.some((c) => c.name === name)) { this.rows.get(name).remove(); this.rows.delete(name); }
    for (const camera of view.cameras) {
      let row = this.rows.get(camera.name);
      if (!row) {
        row = make("tr", {}, ...Array.from({ length: 5 }, () => make("td")));
        this.rows.set(camera.name, row);
      }
      this.body.append(row);
      const age = camera.age_s, drops = camera.drops ?? 0;
      const texts = [camera.name, `${camera.rate.toFixed(1)} Hz`, age === null ? "–" : age < 10 ? `${age.toFixed(2)} s` : `${age.toFixed(0)} s`,
        `${camera.frames ?? camera.received}`, `${drops}`];
      texts.forEach((text, i) => setText(row.cells[i], text));
      row.cells[4].classList.toggle("some", drops > 0);
      row.dataset.level = age === null || view.ended ? "none" : age > 1.5 ? "error" : age > 0.6 ? "warn" : "ok";
    }
  }
}

export class Diagnostics {
  constructor(list, figures) { Object.assign(this, { list, figures }); this.items = new Map(); }

  set(view) {
    const order = { error: 0, warn: 1, stale: 2, ok: 3 };
    const reports = [...view.diagnostics].sort((a, b) => order[a.level] - order[b.level] || a.name.localeCompare(b.name));
    if (!reports.length) return;
    for (const name of [...this.items.keys()]) if (!reports.some((r) => r.name === name)) { this.items.get(name).remove(); this.items.delete(name); }
    this.list.querySelector(".empty")?.remove();
    reports.forEach((report, i) => {
      let item = this.items.get(report.name);
      if (!item) {
        item = make("details", {}, make("summary", {}, make("div", {}, make("b"), " ", make("span"))), make("dl"));
        this.items.set(report.name, item);
      }
      if (this.list.children[i] !== item) this.list.insertBefore(item, this.list.children[i] ?? null);
      item.dataset.level = report.level;
      setText(item.querySelector("b"), report.name);
      setText(item.querySelector("span"), report.level === "stale" ? `silent for ${report.age_s.toFixed(0)} s` : report.message);
      if (item.open) item.querySelector("dl").replaceChildren(...Object.entries(report.values).flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
    });
    const count = (level) => reports.filter((r) => r.level === level).length;
    setText(this.figures, ["error", "warn", "stale", "ok"].filter(count).map((l) => `${count(l)} ${l}`).join(" · "));
  }
}

export class Logs {
  constructor(list, level, text) {
    Object.assign(this, { list, level, text });
    this.lines = [];
    this.levels = ["debug", "info", "warn", "error", "fatal"];
    level.addEventListener("change", () => this.redraw());
    text.addEventListener("input", () => this.redraw());
  }

  reset() { this.lines = []; this.redraw(); }

  set(view) {
    if (!view.logs.length) return;
    const follow = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 24;
    this.lines.push(...view.logs);
    this.lines.splice(0, this.lines.length - 500);
    this.list.querySelector(".empty")?.remove();
    for (const line of view.logs) if (this.wanted(line)) this.list.append(this.row(line));
    while (this.list.children.length > 500) this.list.firstChild.remove();
    if (follow) this.list.scrollTop = this.list.scrollHeight;
  }

  wanted(line) {
    const text = this.text.value.trim().toLowerCase();
    return this.levels.indexOf(line.level) >= Number(this.level.value) && (!text || `${line.name} ${line.text}`.toLowerCase().includes(text));
  }

  row(line) {
    const time = new Date(line.time * 1000).toLocaleTimeString("en-GB", { hour12: false });
    return make("li", { dataset: { level: line.level } }, make("time", {}, time), " ", make("span", { class: "node" }, line.name), " ", line.text);
  }

  redraw() {
    const shown = this.lines.filter((line) => this.wanted(line));
    this.list.replaceChildren(...(shown.length ? shown.map((line) => this.row(line)) : [make("li", { class: "empty" }, this.lines.length ? "No line passes the filter" : "Nothing logged yet")]));
    this.list.scrollTop = this.list.scrollHeight;
  }
}
