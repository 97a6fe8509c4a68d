// The cameras with the boxes that they see.

import { fit, make, setText } from "./dom.js";

const LATE_S = 1.5;

export class Cameras {
  /** @param {HTMLElement} grid @param {(box: object) => boolean} visible @param {(name: string) => string} colourOf */
  constructor(grid, visible, colourOf, onHover, overlay) {
    this.overlay = overlay; // 2D boxes
    this.grid = grid;
    this.visible = visible;
    this.colourOf = colourOf;
    this.onHover = onHover;
    this.tiles = new Map();
    this.large = null;
    this.view = null;
    new ResizeObserver(() => this.draw()).observe(grid);
  }

  /** Takes a view; ``images`` are decoded bitmaps by camera name (only those that are new). */
  set(view, images) {
    this.view = view;
    this.layout(view.cameras);
    for (const camera of view.cameras) {
      const tile = this.tiles.get(camera.name);
      const image = images.get(camera.name);
      if (image) { tile.image?.close(); tile.image = image; tile.broken = false; }
      if (camera.broken) tile.broken = true;
      tile.camera = camera;
    }
  }

  layout(cameras) {
    const names = cameras.map((c) => c.name).join();
    const front = cameras.filter((c) => !c.rear).length, rear = cameras.length - front;
    if (names === this.names && front === this.front) return;
    this.names = names;
    this.front = front;
    const known = new Map([...this.tiles].filter(([name]) => cameras.some((c) => c.name === name)));
    this.tiles = new Map(cameras.map((c, i) => [c.name, known.get(c.name) ?? this.tile(c.name, i)]));
    this.grid.replaceChildren(...[...this.tiles.values()].map((t) => t.figure));
    const balanced = cameras.length > 2 && front && rear && Math.abs(front - rear) <= 1;
    const columns = balanced ? Math.max(front, rear) : Math.min(3, cameras.length || 1);
    this.grid.style.setProperty("--columns", columns);
  }

  tile(name, index) {
    const canvas = make("canvas", { role: "img" });
    const rate = make("span", { class: "rate" });
    const note = make("div", { class: "note", hidden: true });
    const figure = make("figure", { class: "camera", tabIndex: 0, dataset: { name } },
      canvas, make("figcaption", {}, make("span", {}, name), rate), note);
    figure.setAttribute("role", "button");
    figure.setAttribute("aria-label", `${name}: enlarge`);
    figure.style.aspectRatio = "16 / 9";
    figure.addEventListener("click", () => this.toggle(name));
    figure.addEventListener("keydown", (e) => { if (e.key === "Enter") this.toggle(name); });
    figure.addEventListener("pointerenter", () => this.onHover(name));
    figure.addEventListener("pointerleave", () => this.onHover(null));
    figure.title = `${name} (key ${index + 1})`;
    return { figure, canvas, rate, note, image: null, camera: null, broken: false };
  }

  /** Enlarges a camera, or shows all again. */
  toggle(name) {
    this.large = this.large === name ? null : name;
    this.grid.classList.toggle("enlarged", this.large !== null);
    for (const [other, tile] of this.tiles) tile.figure.classList.toggle("large", other === this.large);
    this.draw();
  }

  toggleIndex(index) {
    const name = [...this.tiles.keys()][index];
    if (name) this.toggle(name);
  }

  draw() {
    if (!this.view) return;
    for (const tile of this.tiles.values()) if (tile.camera) this.drawTile(tile);
  }

  drawTile(tile) {
    const { camera, image } = tile;
    const late = !this.view.ended && camera.age_s !== null && camera.age_s > LATE_S;
    tile.figure.classList.toggle("late", late);
    const rate2d = camera.rate2d === null || camera.rate2d === undefined ? "" : ` · 2D ${camera.rate2d.toFixed(1)} Hz`;
    const differs = camera.disagreements ? ` · ⚠ ${camera.disagreements}` : "";
    setText(tile.rate, `${camera.rate.toFixed(1)} Hz${rate2d}${differs}`);
    tile.rate.title = camera.disagreements ? `2D and 3D boxes disagree about ${camera.disagreements} objects` : "";
    tile.figure.classList.toggle("differs", camera.disagreements > 0);
    const note = tile.broken ? "image cannot be decoded" : late ? `no image for ${camera.age_s.toFixed(1)} s`
      : image ? "" : "no image yet";
    tile.note.hidden = !note;
    setText(tile.note, note);
    if (camera.width && camera.height) tile.figure.style.aspectRatio = `${camera.width} / ${camera.height}`;
    if (this.large && this.large !== camera.name) return;
    const { context, width, height } = fit(tile.canvas);
    // Fill the tile; an enlarged one may have another shape, then the whole image is shown in the middle.
    let w = width, h = height;
    if (image) {
      const scale = Math.min(width / image.width, height / image.height);
      w = image.width * scale; h = image.height * scale;
    }
    context.translate((width - w) / 2, (height - h) / 2);
    if (image) context.drawImage(image, 0, 0, w, h);
    context.beginPath();
    context.rect(0, 0, w, h);
    context.clip();
    let count = 0;
    const weight = Math.max(1, Math.min(2.2, w / 420));
    for (const outline of camera.outlines) {
      const box = this.view.boxes[outline.box];
      if (!box || !this.visible(box)) continue;
      count += 1;
      const colour = this.colourOf(box.class);
      context.lineJoin = context.lineCap = "round";
      this.stroke(context, outline.lines, w, h, "#000a", weight * 2.4);
      this.stroke(context, outline.lines, w, h, colour, weight);
      this.stroke(context, outline.front, w, h, colour, weight * 1.9);
    }
    const flat = this.overlay.draw(context, camera, w, h, this.large !== null && !camera.outlines.length);
    if (this.large) this.labels(context, camera.outlines, w, h);
    tile.canvas.setAttribute("aria-label", `${camera.name}, ${count} boxes${flat ? `, ${flat} in 2D` : ""}`);
  }

  stroke(context, lines, w, h, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const line of lines) {
      context.moveTo(line[0] * w, line[1] * h);
      for (let i = 2; i < line.length; i += 2) context.lineTo(line[i] * w, line[i + 1] * h);
    }
    context.stroke();
  }

  /** Labels above the boxes, the nearest object first; one that would cover another is left out. */
  labels(context, outlines, w, h) {
    const taken = [];
    context.font = "600 12px system-ui, sans-serif";
    for (const outline of [...outlines].reverse()) {
      const box = this.view.boxes[outline.box];
      if (!box || !this.visible(box)) continue;
      let x = Infinity, y = Infinity;
      for (const line of outline.lines) for (let i = 0; i < line.length; i += 2) { x = Math.min(x, line[i] * w); y = Math.min(y, line[i + 1] * h); }
      const text = `${box.class.replace("_", " ")} ${box.score.toFixed(2)} · ${outline.depth.toFixed(0)} m`;
      const size = context.measureText(text).width + 8;
      x = Math.max(0, Math.min(w - size, x));
      y = Math.max(17, y);
      if (taken.some((t) => x < t.x + t.size && x + size > t.x && Math.abs(y - t.y) < 16)) continue;
      taken.push({ x, y, size });
      context.fillStyle = this.colourOf(box.class);
      context.fillRect(x, y - 17, size, 16);
      context.fillStyle = "#0b0f14";
      context.fillText(text, x + 4, y - 5);
    }
  }
}
