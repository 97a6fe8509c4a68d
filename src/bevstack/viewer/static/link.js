// The websocket to the server: takes one view at a time, asks for the next when this one has been drawn.

const decoder = new TextDecoder();

/**
 * Splits one binary message: u32 length of the JSON, the JSON, the pictures.
 * @param {ArrayBuffer} buffer
 * @returns {{view: object, bytes: (place: {at: number, length: number, mime: string}) => Blob}}
 */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const view = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  return { view, bytes: (place) => new Blob([new Uint8Array(buffer, start + place.at, place.length)], { type: place.mime }) };
}

export class Link extends EventTarget {
  constructor(url) {
    super();
    this.url = url;
    this.delay = 500;
    this.paused = false;
    this.open();
  }

  open() {
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.delay = 500;
      if (this.paused) this.send({ type: "pause", value: true });
      this.emit("open");
    };
    socket.onmessage = (message) => {
      if (typeof message.data === "string") this.emit("hello", JSON.parse(message.data));
      else this.emit("view", unpack(message.data));
    };
    socket.onclose = () => {
      this.emit("lost");
      setTimeout(() => this.open(), this.delay);
      this.delay = Math.min(this.delay * 1.7, 8000);
    };
  }

  /** Tells the server that a view has been drawn. */
  acknowledge(seq) {
    this.send({ type: "ack", seq });
  }

  pause(value) {
    this.paused = value;
    this.send({ type: "pause", value });
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
