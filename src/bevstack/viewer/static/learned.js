// Learned streams: original, decoded picture and their difference, and what the frame cost.

import { colour, fit, make, ms, setText } from "./dom.js";

const KEPT = 160;
const OLD_S = 3;
const KINDS = [["original", "original"], ["decoded", "decoded"], ["difference", "difference × 8"]];

export class Learned {
  /** @param {HTMLElement} panel hidden while there are no streams @param {(camera: string) => void} onChoice which camera to send pictures of; "" none */
  constructor(panel, onChoice) {
    this.panel = panel;
    this.onChoice = onChoice;
    this.choice = "";
    this.histories = new Map(); // camera -> {stamp, values}
    this.select = panel.querySelector("select");
    this.figures = panel.querySelector(".learned-pictures");
    this.facts = panel.querySelector(".learned-facts");
    this.spark = panel.querySelector("canvas.spark");
    this.reason = panel.querySelector(".learned-reason");
    this.toggle = panel.querySelector("button");
    this.images = new Map(KINDS.map(([kind, label]) => {
      const image = make("img", { alt: `${label}: nothing yet` });
      this.figures.append(make("figure", {}, image, make("figcaption", {}, label)));
      return [kind, image];
    }));
    this.select.addEventListener("change", () => this.choose(this.select.value));
    this.toggle.addEventListener("click", () => this.choose(this.choice ? "" : this.select.value));
    new ResizeObserver(() => this.draw()).observe(this.spark);
  }

  choose(camera) {
    this.choice = camera;
    this.figures.hidden = !camera;
    setText(this.toggle, camera ? "Hide pictures" : "Show pictures");
    this.toggle.setAttribute("aria-expanded", String(Boolean(camera)));
    this.tell();
    this.draw();
  }

  /** Says again which camera is looked at: the server forgets it with the connection. */
  tell() { this.onChoice(this.choice); }

  set(view, bytes) {
    const streams = view.learned ?? [];
    this.panel.hidden = !streams.length;
    if (!streams.length) return;
    const names = streams.map((s) => s.camera);
    if ([...this.select.options].map((o) => o.value).join() !== names.join()) {
      const before = this.select.value;
      this.select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
      this.select.value = names.includes(before) ? before : names[0];
      if (!this.seen) { this.seen = true; this.choose(this.select.value); }
    }
    for (const stream of streams) {
      const history = this.histories.get(stream.camera) ?? { stamp: null, values: [] };
      if (stream.stamp !== history.stamp && stream.bytes) { history.stamp = stream.stamp; history.values.push(stream.bpp); }
      history.values.splice(0, history.values.length - KEPT);
      this.histories.set(stream.camera, history);
    }
    this.streams = streams;
    const pictures = view.learned_pictures;
    if (!pictures || pictures.camera !== this.choice) return;
    this.shown = pictures;
    for (const [kind, image] of this.images) {
      const place = pictures[kind];
      if (!place) continue;
      const url = URL.createObjectURL(bytes(place));
      const old = image.src;
      image.src = url;
      image.alt = `${kind} of ${pictures.camera}`;
      if (old.startsWith("blob:")) URL.revokeObjectURL(old);
    }
  }

  draw() {
    if (!this.streams) return;
    const stream = this.streams.find((s) => s.camera === this.select.value) ?? this.streams[0];
    const measured = this.shown?.camera === stream.camera ? this.shown.psnr : null;
    const quality = stream.psnr ?? measured;
    const total = (stages) => stages.find((s) => s.name === "total");
    const entries = [
      ["bits per pixel", stream.bpp.toFixed(3)],
      ["bytes", stream.bytes.toLocaleString("en")],
      ["stream", stream.kbps === null ? "–" : `${stream.kbps.toFixed(0)} kbit/s`],
      ["PSNR", quality === null || quality === undefined ? "–" : `${quality.toFixed(2)} dB`],
      ["frames/s", stream.rate.toFixed(1)],
      ["latency", stream.latency_ms ? ms(stream.latency_ms) : "–"],
      ["last frame", stream.age === null ? "–" : `${stream.age.toFixed(1)} s ago`],
      ["damaged", String(stream.damaged)],
      ["dropped", `${stream.frames_dropped} of ${stream.frames_in}`],
      ["encode", total(stream.encode) ? ms(total(stream.encode).ms) : "–"],
      ["decode", total(stream.decode) ? ms(total(stream.decode).ms) : "–"],
      ["model", `${stream.model} on ${stream.engine}`],
      ["picture", `${stream.width} × ${stream.height}`],
    ];
    const stages = (list) => list.map((s) => `${s.name} ${s.ms.toFixed(1)} ms`).join("\n");
    const titles = { encode: stages(stream.encode), decode: stages(stream.decode) };
    if (this.facts.children.length !== entries.length) this.facts.replaceChildren(...entries.map(([name]) => make("div", {}, make("dt", {}, name), make("dd"))));
    entries.forEach(([name, text], i) => {
      setText(this.facts.children[i].lastChild, text);
      this.facts.children[i].title = titles[name] ?? "";
      this.facts.children[i].classList.toggle("old", (name === "last frame" && stream.age > OLD_S) || (name === "damaged" && stream.damaged > 0));
    });
    const waiting = Boolean(this.choice) && this.shown?.camera !== this.choice;
    this.figures.hidden = !this.choice || waiting;
    const reason = stream.reason || (waiting && !total(stream.decode) ? "no pictures: they need a decoder_node (decode:=true)" : "");
    this.reason.hidden = !reason;
    setText(this.reason, reason);
    this.drawSpark(this.histories.get(stream.camera)?.values ?? []);
  }

  drawSpark(values) {
    const { context, width, height } = fit(this.spark);
    if (values.length < 2) return;
    const top = Math.max(...values) * 1.1 || 1, step = width / (KEPT - 1), left = width - (values.length - 1) * step;
    context.strokeStyle = colour("--accent");
    context.lineWidth = 1.5;
    context.beginPath();
    values.forEach((v, i) => context.lineTo(left + i * step, height - 2 - (v / top) * (height - 14)));
    context.stroke();
    context.fillStyle = colour("--soft");
    context.font = "10px system-ui, sans-serif";
    context.fillText(`${top.toFixed(2)} bits per pixel`, 2, 10);
    this.spark.setAttribute("aria-label", `History of bits per pixel: now ${values.at(-1).toFixed(3)}`);
  }
}
