// Frames brought to the network's size, and its maps cut back to the frame: edgemtl/frames.py's rule.

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

/** The nearest whole number, halves to the even one, as Python and OpenCV round. */
export function halfEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
