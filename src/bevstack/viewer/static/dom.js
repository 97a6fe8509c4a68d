// Small helpers for the document.

export const byId = (id) => document.getElementById(id);

/** A new element with properties (``dataset`` and ``class`` too) and children (texts or elements). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fits a canvas to its place on the screen; returns its drawing context in CSS pixels, cleared. */
export function fit(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d");
  context.setTransform(w / Math.max(width, 1), 0, 0, h / Math.max(height, 1), 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** A CSS variable's colour in the current theme. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Mixes #rrggbb with black (amount < 0) or white (amount > 0), |amount| up to 1. */
export function shade(hex, amount) {
  const target = amount < 0 ? 0 : 255, a = Math.abs(amount);
  const part = (at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * (1 - a) + target * a).toString(16).padStart(2, "0");
  return `#${part(1)}${part(3)}${part(5)}`;
}

export const ms = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1)) + " ms";

/** Value below which the fraction ``q`` of the numbers lies (nearest rank). */
export function quantile(numbers, q) {
  if (!numbers.length) return NaN;
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))];
}
