// The page computes what Python does: on values that tests/apps/test_web.py wrote. Skipped where nobody wrote any.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Bounds, Picture, Size } from "../src/deployment";
import { canvas, place, shrunk, type Fit } from "../src/fit";
import { paint, present, say, type Map } from "../src/paint";
import { compare, sha256, canonical } from "../src/selftest";

interface Written {
  pictures: { task: string; picture: Picture; integers: boolean; height: number; width: number; values: number[]; rgb: string; sha256: string; most: number }[];
  fits: { frame: Size; size: Size; how: Fit; canvas: Size; place: [number, number, number, number] }[];
  shrunk: { rgba: string; from: Size; to: Size; rgb: string }[];
  comparisons: { got: number[]; wanted: number[]; integers: boolean; bounds: Bounds; ok: boolean; relative: number | null }[];
}

const path = process.env.EDGEMTL_VALUES;
const written: Written = path ? JSON.parse(readFileSync(path, "utf8")) : { pictures: [], fits: [], shrunk: [], comparisons: [] };

function mapOf(of: Written["pictures"][number]): Map {
  return { values: of.integers ? Int32Array.from(of.values) : Float32Array.from(of.values), height: of.height, width: of.width };
}

describe.skipIf(!path)("as in Python", () => {
  test.each(written.pictures)("$task is painted in the same colours", (of) => {
    const rgba = paint(mapOf(of), of.picture);
    const rgb = Buffer.from(rgba.filter((_, index) => index % 4 < 3));
    expect(rgb.toString("base64")).toBe(of.rgb);
  });

  test.each(written.pictures)("$task has the same hash", async (of) => {
    expect(await sha256(canonical(mapOf(of).values))).toBe(of.sha256);
  });

  test.each(written.pictures)("$task is said in words", (of) => {
    const said = say(mapOf(of), of.picture, 0.5, 0.5);
    const at = (of.height >> 1) * of.width + (of.width >> 1);
    if (of.picture.kind === "classes") {
      expect(said).toBe(of.picture.names[of.values[at]!]);
      expect(present(mapOf(of))[0]![0]).toBe(of.most);
    } else if (of.picture.kind === "numbers") {
      expect(said.endsWith(` ${of.picture.unit}`)).toBe(true);
      expect(Math.abs(parseFloat(said) / of.picture.scale - Math.fround(of.values[at]!))).toBeLessThan(0.51 * 10 ** -of.picture.digits);
    } else expect(of.picture.axes.flat().some((name) => said.startsWith(name))).toBe(true);
  });

  test.each(written.fits)("$frame is $how into $size", (of) => {
    expect(canvas(of.frame, of.size, of.how)).toEqual(of.canvas);
    place(of.frame, of.size, of.how).forEach((value, index) => expect(value).toBeCloseTo(of.place[index]!, 9));
  });

  test.each(written.shrunk)("$from shrinks to $to", (of) => {
    const found = shrunk(Uint8ClampedArray.from(Buffer.from(of.rgba, "base64")), of.from, of.to);
    const wanted = Buffer.from(of.rgb, "base64");
    const off = [...found].map((value, index) => Math.abs(value - wanted[index]!));
    expect(found.length).toBe(wanted.length);
    expect(Math.max(...off)).toBeLessThanOrEqual(1); // OpenCV adds in float32
    expect(off.filter(Boolean).length / off.length).toBeLessThan(1e-3);
  });

  test.each(written.comparisons)("maps are judged alike ($ok, $relative)", (of) => {
    const found = compare(of.got, of.wanted, of.integers, of.bounds);
    expect(found.ok).toBe(of.ok);
    if (of.relative !== null) expect(found.text).toContain(`${Number(of.relative.toPrecision(2))}`);
  });
});
