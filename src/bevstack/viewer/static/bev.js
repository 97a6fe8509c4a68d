// Bird's-eye view: ego frame, x (ahead) up, y (left) to the left, metres.

import { colour, fit, shade } from "./dom.js";

const RANGE = 56; // metres ahead and behind that the whole view shows
const EGO = { front: 3.35, rear: -0.85, half: 0.9 }; // outline of the vehicle around its rear axle, for scale
const ARROW_S = 1; // a velocity arrow ends where the object is after this time

export class BirdsEye {
  /** @param {HTMLCanvasElement} canvas @param {HTMLElement} tip @param {(box: object) => boolean} visible @param {(name: string) => string} colourOf */
  constructor(canvas, tip, visible, colourOf) {
    Object.assign(this, { canvas, tip, visible, colourOf });
    this.view = null;
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.show = { labels: true, velocity: true, truth: true };
    this.camera = null;
    this.pointer = null;
    this.theme();
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    canvas.addEventListener("pointerdown", (e) => this.down(e));
    canvas.addEventListener("pointermove", (e) => this.move(e));
    canvas.addEventListener("pointerup", () => this.up());
    canvas.addEventListener("pointercancel", () => this.up());
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.hover(); });
    canvas.addEventListener("dblclick", () => this.home());
    canvas.addEventListener("keydown", (e) => this.key(e));
  }

  /** Reads the theme's colours again. */
  theme() {
    this.colours = Object.fromEntries(["page", "grid", "ring", "text", "ego", "fov", "truth", "halo"].map((n) => [n, colour(`--bev-${n}`)]));
    this.light = document.documentElement.dataset.theme === "light";
    this.draw();
  }

  set(view) { this.view = view; }

  get scale() {
    const shorter = Math.min(this.canvas.clientHeight, this.canvas.clientWidth * 1.35);
    return (this.zoom * shorter) / (2 * RANGE);
  }

  home() { this.zoom = 1; this.x = this.y = 0; this.draw(); }

  zoomBy(factor, at = null) {
    const before = at && this.metres(at.x, at.y);
    this.zoom = Math.min(20, Math.max(0.4, this.zoom * factor));
    if (before) {
      const after = this.metres(at.x, at.y);
      this.x += before.x - after.x;
      this.y += before.y - after.y;
    }
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * 0.0015), { x: event.offsetX, y: event.offsetY });
  }

  down(event) {
    this.drag = { x: event.offsetX, y: event.offsetY };
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.classList.add("dragging");
  }

  move(event) {
    this.pointer = { x: event.offsetX, y: event.offsetY };
    if (this.drag) {
      this.y += (this.pointer.x - this.drag.x) / this.scale;
      this.x += (this.pointer.y - this.drag.y) / this.scale;
      this.drag = this.pointer;
      this.draw();
    } else this.hover();
  }

  up() { this.drag = null; this.canvas.classList.remove("dragging"); }

  key(event) {
    const step = 40 / this.scale;
    const moves = { ArrowUp: [step, 0], ArrowDown: [-step, 0], ArrowLeft: [0, step], ArrowRight: [0, -step] };
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.x += move[0];
    this.y += move[1];
    this.draw();
  }

  pixels(x, y) {
    const s = this.scale;
    return [this.canvas.clientWidth / 2 - (y - this.y) * s, this.canvas.clientHeight / 2 - (x - this.x) * s];
  }

  metres(px, py) {
    const s = this.scale;
    return { x: this.x - (py - this.canvas.clientHeight / 2) / s, y: this.y - (px - this.canvas.clientWidth / 2) / s };
  }

  shownBoxes() { return (this.view?.boxes ?? []).filter(this.visible); }

  draw() {
    if (!this.canvas.clientWidth || !this.colours) return;
    const { context, width, height } = fit(this.canvas);
    context.fillStyle = this.colours.page;
    context.fillRect(0, 0, width, height);
    this.drawGrid(context, width, height);
    for (const camera of this.view?.cameras ?? []) this.drawField(context, camera);
    this.drawRings(context, width, height);
    this.drawEgo(context);
    if (this.show.truth) for (const box of this.view?.truth ?? []) this.drawTruth(context, box);
    const boxes = this.shownBoxes();
    for (const box of boxes) this.drawBox(context, box);
    if (this.show.velocity) for (const box of boxes) this.drawVelocity(context, box);
    if (this.show.labels) this.drawLabels(context, boxes);
    this.drawScale(context, width, height);
    this.canvas.setAttribute("aria-label", `Bird's-eye view: ${this.describe(boxes)}`);
    this.hover();
  }

  describe(boxes) {
    if (!boxes.length) return "no boxes";
    const counts = {};
    for (const box of boxes) counts[box.class] = (counts[box.class] ?? 0) + 1;
    return Object.entries(counts).map(([name, n]) => `${n} ${name.replace("_", " ")}`).join(", ");
  }

  drawGrid(context, width, height) {
    const step = this.scale < 2.2 ? 50 : 10;
    const a = this.metres(0, height), b = this.metres(width, 0); // a: left rear corner, b: right front corner
    context.strokeStyle = this.colours.grid;
    context.lineWidth = 1;
    context.beginPath();
    for (let x = Math.ceil(a.x / step) * step; x <= b.x; x += step) {
      const y = Math.round(this.pixels(x, 0)[1]) + 0.5;
      context.moveTo(0, y); context.lineTo(width, y);
    }
    for (let y = Math.ceil(b.y / step) * step; y <= a.y; y += step) {
      const x = Math.round(this.pixels(0, y)[0]) + 0.5;
      context.moveTo(x, 0); context.lineTo(x, height);
    }
    context.stroke();
  }

  drawRings(context) {
    const [cx, cy] = this.pixels(0, 0);
    const step = this.scale > 16 ? 5 : this.scale > 2.2 ? 10 : 50;
    context.lineWidth = 1;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    const last = step * 12;
    for (let radius = step; radius <= last; radius += step) {
      context.strokeStyle = this.colours.ring;
      context.globalAlpha = radius % (2 * step) ? 0.55 : 1;
      context.beginPath();
      context.arc(cx, cy, radius * this.scale, 0, 2 * Math.PI);
      context.stroke();
      context.globalAlpha = 1;
      if (radius % (2 * step)) continue;
      for (const side of [-1, 1]) {
        const angle = -Math.PI / 2 + side * 0.62;
        const x = cx + Math.cos(angle) * radius * this.scale, y = cy + Math.sin(angle) * radius * this.scale;
        const text = `${radius} m`;
        context.fillStyle = this.colours.page;
        const size = context.measureText(text).width + 6;
        context.fillRect(x - size / 2, y - 7, size, 14);
        context.fillStyle = this.colours.text;
        context.fillText(text, x, y);
      }
    }
  }

  drawField(context, camera) {
    if (camera.yaw === null || !camera.position) return;
    const [cx, cy] = this.pixels(camera.position[0], camera.position[1]);
    const centre = -Math.PI / 2 - camera.yaw, half = camera.fov / 2;
    const chosen = this.camera === camera.name;
    const radius = (chosen ? 56 : 18) * this.scale;
    const fill = context.createRadialGradient(cx, cy, 0, cx, cy, radius);
    const [strong, none] = chosen ? ["50", "08"] : ["30", "00"];
    fill.addColorStop(0, this.colours.fov + strong);
    fill.addColorStop(1, this.colours.fov + none);
    context.fillStyle = fill;
    context.beginPath();
    context.moveTo(cx, cy);
    context.arc(cx, cy, radius, centre - half, centre + half);
    context.closePath();
    context.fill();
  }

  drawEgo(context) {
    const [left, top] = this.pixels(EGO.front, EGO.half), [right, bottom] = this.pixels(EGO.rear, -EGO.half);
    context.fillStyle = this.colours.ego;
    context.beginPath();
    context.roundRect(left, top, right - left, bottom - top, Math.min(5, (right - left) * 0.3));
    context.fill();
    // A windscreen shows which way it drives.
    const [a, b] = this.pixels(2.2, 0.62), [c, d] = this.pixels(1.35, -0.62);
    context.fillStyle = this.colours.page;
    context.beginPath();
    context.roundRect(a, b, c - a, d - b, 1.5);
    context.fill();
  }

  corners(box) {
    const c = Math.cos(box.yaw), s = Math.sin(box.yaw), l = box.length / 2, w = box.width / 2;
    // Front left, front right, rear right, rear left.
    return [[l, w], [l, -w], [-l, -w], [-l, w]].map(([x, y]) => this.pixels(box.x + c * x - s * y, box.y + s * x + c * y));
  }

  outline(context, box) {
    const corners = this.corners(box);
    context.beginPath();
    corners.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    return corners;
  }

  drawTruth(context, box) {
    context.save();
    context.setLineDash([4, 3]);
    context.strokeStyle = this.colours.truth;
    context.globalAlpha = 0.75;
    context.lineWidth = 1.2;
    this.outline(context, { ...box, length: box.length + 0.3, width: box.width + 0.3 });
    context.stroke();
    context.restore();
  }

  line(name) {
    const base = this.colourOf(name);
    return this.light ? shade(base, -0.32) : base;
  }

  drawBox(context, box) {
    const line = this.line(box.class);
    const corners = this.outline(context, box);
    context.fillStyle = this.colourOf(box.class) + (this.light ? "66" : "44");
    context.fill();
    context.lineJoin = "round";
    context.strokeStyle = line;
    context.lineWidth = this.hovered === box ? 3 : 1.6;
    context.stroke();
    // The front edge is heavy, and a line leads from the middle to it.
    const [cx, cy] = this.pixels(box.x, box.y);
    context.lineWidth = 3.2;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...corners[0]);
    context.lineTo(...corners[1]);
    context.stroke();
    context.lineWidth = 1.4;
    context.beginPath();
    context.moveTo(cx, cy);
    context.lineTo((corners[0][0] + corners[1][0]) / 2, (corners[0][1] + corners[1][1]) / 2);
    context.stroke();
  }

  drawVelocity(context, box) {
    const speed = Math.hypot(box.vx, box.vy);
    if (speed < 0.5) return;
    const [x0, y0] = this.pixels(box.x, box.y);
    const [x1, y1] = this.pixels(box.x + box.vx * ARROW_S, box.y + box.vy * ARROW_S);
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (length < 7) return;
    const ux = (x1 - x0) / length, uy = (y1 - y0) / length, head = Math.min(8, length * 0.5);
    context.strokeStyle = context.fillStyle = this.line(box.class);
    context.lineWidth = 1.8;
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1 - ux * head, y1 - uy * head);
    context.stroke();
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - ux * head - uy * head * 0.45, y1 - uy * head + ux * head * 0.45);
    context.lineTo(x1 - ux * head + uy * head * 0.45, y1 - uy * head - ux * head * 0.45);
    context.closePath();
    context.fill();
  }

  /** Labels beside their boxes, nearest first; one that would cover another is left out. */
  drawLabels(context, boxes) {
    const taken = [];
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const near = [...boxes].sort((a, b) => Math.hypot(a.x, a.y) - Math.hypot(b.x, b.y));
    for (const box of near) {
      const corners = this.corners(box);
      const x = Math.max(...corners.map((c) => c[0])) + 5, y = (corners[0][1] + corners[2][1]) / 2;
      const speed = Math.hypot(box.vx, box.vy);
      const name = box.class.replace("_", " ") + (box.id === null ? "" : ` ${box.id}`);
      const text = this.scale > 7 && speed >= 0.5 ? `${name} · ${speed.toFixed(1)} m/s` : name;
      const place = [x - 2, y - 7, x + context.measureText(text).width + 2, y + 7];
      if (taken.some((t) => place[0] < t[2] && place[2] > t[0] && place[1] < t[3] && place[3] > t[1])) continue;
      taken.push(place);
      context.lineWidth = 3.5;
      context.strokeStyle = this.colours.halo;
      context.strokeText(text, x, y);
      context.fillStyle = this.line(box.class);
      context.fillText(text, x, y);
    }
  }

  drawScale(context, width, height) {
    const metres = [1, 2, 5, 10, 20, 50, 100].find((m) => m * this.scale > 60) ?? 200;
    const length = metres * this.scale, x = 14, y = height - 16;
    context.strokeStyle = context.fillStyle = this.colours.text;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, y - 4); context.lineTo(x, y); context.lineTo(x + length, y); context.lineTo(x + length, y - 4);
    context.stroke();
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(`${metres} m`, x + length + 7, y - 2);
  }

  hover() {
    const at = this.pointer && !this.drag ? this.metres(this.pointer.x, this.pointer.y) : null;
    const slack = 5 / this.scale;
    const found = at && this.shownBoxes().find((box) => {
      const dx = at.x - box.x, dy = at.y - box.y, c = Math.cos(box.yaw), s = Math.sin(box.yaw);
      return Math.abs(c * dx + s * dy) <= box.length / 2 + slack && Math.abs(-s * dx + c * dy) <= box.width / 2 + slack;
    });
    this.tip.hidden = !found;
    if (!found) return;
    const title = document.createElement("b");
    title.textContent = found.class.replace("_", " ") + (found.id === null ? "" : ` #${found.id}`);
    const lines = [
      `score ${found.score.toFixed(2)}`,
      `${Math.hypot(found.x, found.y).toFixed(1)} m away (${found.x.toFixed(1)}, ${found.y.toFixed(1)})`,
      `${Math.hypot(found.vx, found.vy).toFixed(1)} m/s, heading ${((found.yaw * 180) / Math.PI).toFixed(0)}°`,
      `${found.length.toFixed(1)} × ${found.width.toFixed(1)} × ${found.height.toFixed(1)} m`,
    ];
    this.tip.replaceChildren(title, lines.join("\n"));
    const right = this.pointer.x + 16 + this.tip.offsetWidth > this.canvas.clientWidth;
    this.tip.style.left = `${right ? this.pointer.x - 12 - this.tip.offsetWidth : this.pointer.x + 16}px`;
    this.tip.style.top = `${Math.max(4, Math.min(this.canvas.clientHeight - this.tip.offsetHeight - 4, this.pointer.y + 8))}px`;
  }
}
