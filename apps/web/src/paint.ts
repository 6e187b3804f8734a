// Maps as pictures and words, by what the artifact's tasks say of themselves (`Task.picture` in edgemtl/tasks).

import type { Classes, Numbers, Picture, Vectors } from "./deployment";
import { halfEven } from "./fit";

export type Values = Int32Array | Float32Array;

export interface Map {
  values: Values; // (h, w) or (3, h, w)
  height: number;
  width: number;
}

/** The picture of a map as RGBA, the same colours as Python paints. */
export function paint(map: Map, picture: Picture): Uint8ClampedArray<ArrayBuffer> {
  const pixels = map.height * map.width;
  const made = new Uint8ClampedArray(4 * pixels);
  const words = new Uint32Array(made.buffer);
  if (picture.kind === "vectors") {
    for (let i = 0; i < pixels; i++) {
      const [x, y, z] = [0, 1, 2].map((axis) => channel(map.values[axis * pixels + i]!));
      words[i] = rgba(x!, y!, z!);
    }
    return made;
  }
  const table = rows(picture);
  if (picture.kind === "classes") {
    for (let i = 0; i < pixels; i++) words[i] = table[map.values[i]!] ?? rgba(0, 0, 0);
  } else {
    for (let i = 0; i < pixels; i++) words[i] = table[row(map.values[i]!, picture)]!;
  }
  return made;
}

/** The row of the table that a number is painted by. */
export function row(value: number, picture: Numbers): number {
  if (!(value > 0)) return 0;
  return picture.first + Math.min(halfEven(Math.fround(value * Math.fround(picture.factor))), picture.last);
}

function channel(value: number): number {
  return Math.min(255, Math.abs(halfEven(Math.fround(Math.fround(value * 127.5) + 127.5))));
}

const tables = new WeakMap<Picture, Uint32Array>();

function rows(picture: Picture & (Classes | Numbers)): Uint32Array {
  let table = tables.get(picture);
  if (!table) {
    table = Uint32Array.from(picture.table, ([red, green, blue]) => rgba(red, green, blue));
    tables.set(picture, table);
  }
  return table;
}

/** A pixel as the word that little-endian machines, so every browser's, keep in memory as red, green, blue, alpha. */
function rgba(red: number, green: number, blue: number): number {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The classes of a map, most frequent first, with their share of the pixels. */
export function present(map: Map): [id: number, share: number][] {
  const counts = new Uint32Array(256);
  for (let i = 0; i < map.values.length; i++) counts[map.values[i]! & 255]!++;
  const found: [number, number][] = [];
  counts.forEach((count, id) => count && found.push([id, count / map.values.length]));
  return found.sort((a, b) => b[1] - a[1]);
}

/** What a map says at a point, in words; x and y are shares of its width and height. */
export function say(map: Map, picture: Picture, x: number, y: number): string {
  const column = Math.min(map.width - 1, Math.max(0, Math.floor(x * map.width)));
  const line = Math.min(map.height - 1, Math.max(0, Math.floor(y * map.height)));
  const at = line * map.width + column;
  if (picture.kind === "classes") return picture.names[map.values[at]!] ?? "unknown";
  if (picture.kind === "numbers") return `${(map.values[at]! * picture.scale).toFixed(picture.digits)} ${picture.unit}`;
  const pixels = map.height * map.width;
  return direction([0, 1, 2].map((axis) => map.values[axis * pixels + at]!), picture);
}

/** The axis that a vector is nearest to, and by how many degrees it is off. */
function direction(vector: number[], picture: Vectors): string {
  const length = Math.hypot(...vector);
  if (!(length > 1e-9)) return "unknown";
  const axis = vector.reduce((best, value, index) => (Math.abs(value) > Math.abs(vector[best]!) ? index : best), 0);
  const degrees = Math.round((Math.acos(Math.min(1, Math.abs(vector[axis]!) / length)) * 180) / Math.PI);
  const name = picture.axes[axis]![vector[axis]! > 0 ? 0 : 1];
  return degrees ? `${name}, ${degrees}° off` : name;
}
