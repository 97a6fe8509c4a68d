// 2D boxes on a camera's picture, and where they and the 3D boxes disagree.

const WARN = "#ffb020";
const DARK = "#000a";

export class Overlay2D {
  /** @param {(box: object) => boolean} visible same test as for 3D boxes: score and class */
  constructor(visible) {
    this.visible = visible;
    this.show = true;
  }

  shown(camera) { return this.show ? (camera.boxes2d ?? []).filter(this.visible) : []; }

  /** Draws onto a tile whose picture spans (0, 0) to (w, h); returns how many boxes. */
  draw(context, camera, w, h, labels) {
    const boxes = this.shown(camera);
    const weight = Math.max(1, Math.min(2, w / 480));
    for (const box of boxes) {
      const [x0, y0, x1, y1] = [box.box[0] * w, box.box[1] * h, box.box[2] * w, box.box[3] * h];
      if (box.flag) {
        this.dashed(context, x0, y0, x1, y1, weight);
        if (!labels) this.tag(context, box.flag === "alone" ? "2D only" : `2D: ${box.class.replace("_", " ")}`, x0, y1 + 12, w, h, WARN);
      } else {
        this.corners(context, x0, y0, x1, y1, DARK, weight * 2.6);
        this.corners(context, x0, y0, x1, y1, box.colour, weight * 1.3);
      }
    }
    if (labels) this.labels(context, boxes, w, h);
    if (this.show && boxes.length) for (const outline of camera.outlines) if (outline.alone) this.only3d(context, outline, w, h);
    return boxes.length;
  }

  /** Corner marks: a whole rectangle would hide the edges of the 3D boxes. */
  corners(context, x0, y0, x1, y1, colour, width) {
    const dx = Math.min(14, (x1 - x0) * 0.3), dy = Math.min(14, (y1 - y0) * 0.3);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = context.lineCap = "round";
    context.beginPath();
    for (const [x, y, sx, sy] of [[x0, y0, 1, 1], [x1, y0, -1, 1], [x0, y1, 1, -1], [x1, y1, -1, -1]]) {
      context.moveTo(x + sx * dx, y); context.lineTo(x, y); context.lineTo(x, y + sy * dy);
    }
    context.stroke();
  }

  dashed(context, x0, y0, x1, y1, weight) {
    context.strokeStyle = DARK;
    context.lineWidth = weight * 2.6;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([5, 4]);
    context.strokeStyle = WARN;
    context.lineWidth = weight * 1.4;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }

  only3d(context, outline, w, h) {
    let x = Infinity, y = -Infinity;
    for (const line of outline.lines) for (let i = 0; i < line.length; i += 2) { x = Math.min(x, line[i] * w); y = Math.max(y, line[i + 1] * h); }
    this.tag(context, "3D only", x, y + 12, w, h, WARN);
  }

  tag(context, text, x, y, w, h, colour) {
    context.font = "600 10px system-ui, sans-serif";
    const size = context.measureText(text).width + 6;
    x = Math.max(0, Math.min(w - size, x));
    y = Math.max(12, Math.min(h, y));
    context.fillStyle = colour;
    context.fillRect(x, y - 12, size, 12);
    context.fillStyle = "#0b0f14";
    context.fillText(text, x + 3, y - 3);
  }

  labels(context, boxes, w, h) {
    for (const box of boxes) {
      const note = box.flag === "alone" ? " · 2D only" : box.flag === "class" ? " · classes differ" : "";
      this.tag(context, `${box.class.replace("_", " ")} ${box.score.toFixed(2)}${note}`, box.box[0] * w, box.box[3] * h + 12, w, h, box.flag ? WARN : box.colour);
    }
  }
}
