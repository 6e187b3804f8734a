// The artifact's own test: frames, and what torch computed for them. edgemtl/device/selftest.py says what is stored.

import type { Bounds, Deployment, StoredMap } from "./deployment";
import type { Map, Values } from "./paint";

export interface Verdict {
  task: string;
  state: "equal" | "within" | "wrong";
  text: string; // by how much it differs; empty where it does not
  exact: boolean; // it was to be equal
}

export interface Result {
  ok: boolean;
  verdicts: Verdict[];
  milliseconds: number; // of one frame, the median of the timed ones
}

/** The map as it is hashed: class ids as int32, numbers as float32 with 0 for -0. */
export function canonical(values: Values): Values {
  return values instanceof Int32Array ? values : values.map((value) => value + 0);
}

/** The frame of that number, uint8 (H, W, 3). */
export function frame(stored: ArrayBuffer, deployment: Deployment, index: number): Uint8Array<ArrayBuffer> {
  const bytes = 3 * deployment.size[0] * deployment.size[1];
  return new Uint8Array(stored, index * bytes, bytes);
}

/** What the maps of the stored frames are beside torch's. */
export async function judge(deployment: Deployment, stored: ArrayBuffer, maps: Record<string, Map>[]): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  for (const task of deployment.tasks) {
    const of = deployment.selftest!.tasks[task.name]!;
    verdicts.push({ task: task.name, exact: task.exact, ...(await verdict(task.exact, of, stored, deployment.bounds, maps.map((m) => m[task.name]))) });
  }
  return verdicts;
}

async function verdict(
  exact: boolean, of: StoredMap, stored: ArrayBuffer, bounds: Bounds, maps: (Map | undefined)[],
): Promise<Pick<Verdict, "state" | "text">> {
  const wanted = values(stored, of, maps.length);
  const got: number[] = [];
  let equal = true;
  for (const [index, map] of maps.entries()) {
    if (!map) return { state: "wrong", text: "no such map" };
    const length = of.shape.reduce((a, b) => a * b, 1);
    if (map.values.length !== length || map.values instanceof Int32Array !== of.integers) {
      return { state: "wrong", text: `${map.values.length} values, ${length} of another kind were expected` };
    }
    const plain = canonical(map.values);
    equal &&= (await sha256(plain)) === of.sha256[index];
    got.push(...kept(plain, of));
  }
  const found = compare(got, wanted, of.integers, bounds);
  if (equal) return found.difference ? { state: "wrong", text: `${found.text}, though its hash is torch's: the self-test was changed` } : { state: "equal", text: "" };
  if (exact) return { state: "wrong", text: `${found.text}, must be equal` };
  return { state: found.ok ? "within" : "wrong", text: found.text };
}

function values(stored: ArrayBuffer, of: StoredMap, frames: number): Values {
  const count = frames * kept(new Float32Array(of.shape.reduce((a, b) => a * b, 1)), of).length;
  return of.integers ? new Int32Array(stored, of.offset, count) : new Float32Array(stored, of.offset, count);
}

/** The values of a map at every so many rows and columns. */
export function kept(values: Values, of: StoredMap): number[] {
  const [height, width] = of.shape.slice(-2) as [number, number];
  const planes = of.shape.length === 3 ? of.shape[0]! : 1;
  const found: number[] = [];
  for (let plane = 0; plane < planes; plane++) {
    for (let row = of.step >> 1; row < height; row += of.step) {
      for (let column = of.step >> 1; column < width; column += of.step) {
        found.push(values[(plane * height + row) * width + column]!);
      }
    }
  }
  return found;
}

/** How far values lie from those that were wanted: edgemtl/device/bounds.py's comparison. */
export function compare(
  got: ArrayLike<number>, wanted: ArrayLike<number>, integers: boolean, bounds: Bounds,
): { ok: boolean; difference: boolean; text: string } {
  const count = wanted.length;
  let [equal, squares, largest, sum, low, high] = [0, 0, 0, 0, Infinity, -Infinity];
  let finite = true;
  for (let i = 0; i < count; i++) {
    const off = Math.abs(got[i]! - wanted[i]!);
    if (!Number.isFinite(off)) finite = false;
    if (off === 0) equal++;
    squares += off * off;
    largest = Math.max(largest, off);
    sum += wanted[i]!;
    low = Math.min(low, wanted[i]!);
    high = Math.max(high, wanted[i]!);
  }
  if (!finite) return { ok: false, difference: true, text: "NaN or infinite" };
  const difference = equal < count;
  if (integers) {
    return { ok: equal / count >= bounds.agreement, difference, text: `${digits(100 * (1 - equal / count))} % of pixels of another class` };
  }
  let spread = 0;
  for (let i = 0; i < count; i++) spread += (wanted[i]! - sum / count) ** 2;
  spread = Math.sqrt(spread / count);
  const rms = Math.sqrt(squares / count);
  const floor = 1e-6 * Math.max(1, Math.abs(low), Math.abs(high));
  const ok = rms <= bounds.rms * spread + floor && largest <= bounds.largest * (high - low) + floor;
  return { ok, difference, text: spread ? `off by ${digits(rms / spread)} of its standard deviation` : `off by ${digits(rms)}` };
}

function digits(value: number): string {
  return String(Number(value.toPrecision(2)));
}

/** The SHA-256 of bytes, in hexadecimal. */
export async function sha256(data: ArrayBuffer | ArrayBufferView<ArrayBufferLike>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data as BufferSource));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
