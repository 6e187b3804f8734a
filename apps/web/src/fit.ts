// Frames brought to the network's size, and its maps cut back to the frame: edgemtl/records/frames.py's rule.

import type { Size } from "./deployment";

export type Fit = "stretched" | "padded";

/** The size, in the frame's pixels, of what is stretched to `size`: the frame's own or a canvas' around it. */
export function canvas(frame: Size, size: Size, how: Fit): Size {
  if (how === "stretched") return frame;
  const factor = Math.max(1, frame[0] / size[0], frame[1] / size[1]);
  return [Math.max(frame[0], halfEven(size[0] * factor)), Math.max(frame[1], halfEven(size[1] * factor))];
}

/** Where the frame stands in the network's input, in the input's pixels: left, top, width, height. */
export function place(frame: Size, size: Size, how: Fit): [number, number, number, number] {
  const whole = canvas(frame, size, how);
  const [top, left] = [0, 1].map((axis) => Math.floor((whole[axis]! - frame[axis]!) / 2));
  const [down, across] = [size[0] / whole[0], size[1] / whole[1]];
  return [left! * across, top! * down, frame[1] * across, frame[0] * down];
}

/** Pixels (H, W, 3) of `to` from RGBA of `from`, each the mean of the area it covers: OpenCV's INTER_AREA. */
export function shrunk(rgba: Uint8ClampedArray, from: Size, to: Size): Uint8Array {
  const made = new Uint8Array(3 * to[0] * to[1]);
  if (from[0] === 2 * to[0] && from[1] === 2 * to[1]) return halved(rgba, from, made);
  const [down, across] = [shares(from[0], to[0]), shares(from[1], to[1])];
  const line = new Float32Array(3 * from[1]);
  for (let y = 0, k = 0; y < to[0]; y++) {
    line.fill(0);
    for (const [row, share] of down[y]!) {
      for (let x = 0, i = 4 * row * from[1]; x < line.length; x += 3, i += 4) {
        line[x] += share * rgba[i]!;
        line[x + 1] += share * rgba[i + 1]!;
        line[x + 2] += share * rgba[i + 2]!;
      }
    }
    for (let x = 0; x < to[1]; x++) {
      let [red, green, blue] = [0, 0, 0];
      for (const [column, share] of across[x]!) {
        red += share * line[3 * column]!;
        green += share * line[3 * column + 1]!;
        blue += share * line[3 * column + 2]!;
      }
      made[k++] = halfEven(red);
      made[k++] = halfEven(green);
      made[k++] = halfEven(blue);
    }
  }
  return made;
}

/** The same of half the size, where OpenCV rounds halves upwards. */
function halved(rgba: Uint8ClampedArray, [, width]: Size, made: Uint8Array): Uint8Array {
  const line = 4 * width;
  for (let k = 0, i = 0; k < made.length; i += line) {
    for (const end = i + line; i < end; i += 8) {
      for (let c = 0; c < 3; c++) made[k++] = (rgba[i + c]! + rgba[i + c + 4]! + rgba[i + c + line]! + rgba[i + c + line + 4]! + 2) >> 2;
    }
  }
  return made;
}

/** For each of `to` pixels the pixels of `from` that it covers, and each one's share of it. */
function shares(from: number, to: number): [index: number, share: number][][] {
  const factor = from / to;
  return Array.from({ length: to }, (_, index) => {
    const [begin, end] = [index * factor, Math.min(from, (index + 1) * factor)];
    const found: [number, number][] = [];
    for (let i = Math.floor(begin); i < Math.ceil(end - 1e-3); i++) {
      const share = Math.min(end, i + 1) - Math.max(begin, i);
      if (share > 1e-3) found.push([i, share / (end - begin)]);
    }
    return found;
  });
}

/** The nearest whole number, halves to the even one, as Python and OpenCV round. */
export function halfEven(value: number): number {
  const rounded = Math.round(value); // halves upwards
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
