// What the colours of a picture mean.

import type { Picture, TaskInfo, Vectors } from "./deployment";
import { paint, present, type Map } from "./paint";

const SHOWN = 4; // classes named under a picture

export interface Legend {
  element: HTMLElement;
  update(map: Map): void;
}

export function legend(task: TaskInfo): Legend {
  const element = document.createElement("div");
  element.className = "legend";
  const picture = task.picture;
  if (picture.kind === "classes") return { element, update: (map) => classes(element, picture, map) };
  if (picture.kind === "numbers") {
    const bar = surface(256, 1);
    const values = Float32Array.from({ length: 256 }, (_, i) => ((i + 0.5) / 256) * (picture.last / picture.factor));
    bar.putImageData(new ImageData(paint({ values, height: 1, width: 256 }, picture), 256, 1), 0, 0);
    bar.canvas.className = "scale";
    const ticks = document.createElement("div");
    ticks.className = "ticks";
    ticks.append(...picture.ticks.map(([, text]) => span(text)));
    element.append(bar.canvas, ticks);
  } else {
    element.classList.add("ball");
    element.append(ball(picture), span(picture.axes.map(([name]) => name).join(" · ")));
  }
  return { element, update: () => {} };
}

function classes(element: HTMLElement, picture: Picture & { kind: "classes" }, map: Map): void {
  const found = present(map);
  const key = found.slice(0, SHOWN).map(([id]) => id).join() + `+${found.length}`;
  if (element.dataset.key === key) return; // nothing has changed that is shown
  element.dataset.key = key;
  const chips = found.slice(0, SHOWN).map(([id]) => {
    const chip = span(picture.names[id] ?? String(id));
    chip.className = "chip";
    chip.style.setProperty("--colour", `rgb(${picture.table[id]?.join(" ") ?? "0 0 0"})`);
    return chip;
  });
  if (found.length > SHOWN) chips.push(span(`+${found.length - SHOWN}`));
  element.replaceChildren(...chips);
}

/** A ball seen from the camera, painted by its normals. */
function ball(picture: Picture & Vectors): HTMLCanvasElement {
  const size = 44;
  const values = new Float32Array(3 * size * size);
  for (let i = 0; i < size * size; i++) {
    const x = ((i % size) + 0.5) * (2 / size) - 1;
    const y = 1 - (Math.floor(i / size) + 0.5) * (2 / size);
    const z = Math.sqrt(Math.max(0, 1 - x * x - y * y));
    [x, y, z].forEach((value, axis) => (values[axis * size * size + i] = value));
  }
  const context = surface(size, size);
  context.putImageData(new ImageData(paint({ values, height: size, width: size }, picture), size, size), 0, 0);
  return context.canvas;
}

export function surface(width: number, height: number): CanvasRenderingContext2D {
  return Object.assign(document.createElement("canvas"), { width, height }).getContext("2d")!;
}

export function span(text: string): HTMLSpanElement {
  return Object.assign(document.createElement("span"), { textContent: text });
}
