// What needs neither a browser nor Python.

import { describe, expect, test } from "vitest";
import { noGPU, threads, type Machine } from "../src/choose";
import type { Deployment, StoredMap } from "../src/deployment";
import { parse } from "../src/deployment";
import { halfEven } from "../src/fit";
import { median, megabytes, Meter } from "../src/measure";
import { say } from "../src/paint";
import { canonical, judge, kept, sha256 } from "../src/selftest";
import { fitted } from "../src/sources";

const laptop: Machine = { isolated: true, cores: 8, iphone: false, gpu: true, jspi: true };

describe("which runtime", () => {
  test("a laptop takes the GPU and four threads", () => {
    expect(noGPU(laptop, true)).toBe("");
    expect(threads(laptop)).toEqual([4, ""]);
  });

  test.each([
    [{ ...laptop, iphone: true }, true, undefined, /iPhones/],
    [{ ...laptop, gpu: false }, true, undefined, /no WebGPU/],
    [{ ...laptop, jspi: false }, true, undefined, /JSPI/],
    [laptop, false, undefined, /no form for WebGPU/],
    [laptop, true, "wasm" as const, /the address asks/],
  ])("wasm, and why (%#)", (machine, model, wanted, why) => expect(noGPU(machine, model, wanted)).toMatch(why));

  test("an iPhone tries the GPU when told to", () => expect(noGPU({ ...laptop, iphone: true }, true, "webgpu")).toBe(""));

  test.each([
    [{ ...laptop, isolated: false }, undefined, /not cross-origin isolated/],
    [{ ...laptop, cores: 1 }, undefined, /one core/],
    [laptop, 1, /the address asks/],
  ])("one thread, and why (%#)", (machine, wanted, why) => {
    const [count, said] = threads(machine, wanted);
    expect(count).toBe(1);
    expect(said).toMatch(why);
  });

  test("never more threads than cores", () => expect(threads({ ...laptop, cores: 2 }, 16)).toEqual([2, ""]));
});

test("halves go to the even number, as in Python", () => {
  expect([0.5, 1.5, 2.5, 2.4999, 2.51, 7].map(halfEven)).toEqual([0, 2, 2, 2, 3, 7]);
});

test("large frames are shown smaller, small ones as they are, in their own shape", () => {
  expect(fitted(1920, 1080)).toEqual([360, 640]);
  expect(fitted(1080, 1920)).toEqual([640, 360]);
  expect(fitted(320, 240)).toEqual([240, 320]);
});

describe("measuring", () => {
  test("frame rate and medians of the last frames", () => {
    const meter = new Meter();
    expect(meter.rate()).toBe(0);
    for (let index = 0; index < 100; index++) meter.add({ network: index < 50 ? 1000 : 10 }, 40 * index);
    expect(meter.rate()).toBeCloseTo(25);
    expect(meter.medians()).toEqual({ network: 10 });
    expect(meter.frames).toBe(100);
    meter.restart();
    expect([meter.rate(), meter.frames]).toEqual([0, 100]);
  });

  test("words", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect([megabytes(2_500_000), megabytes(35_000_000)]).toEqual(["2.5 MB", "35 MB"]);
  });
});

test("a direction is named by its axis", () => {
  const picture = { kind: "vectors" as const, axes: [["right", "left"], ["up", "down"], ["to the camera", "away"]] as [string, string][], over: [0.45, 0.55] as [number, number] };
  const at = (x: number, y: number, z: number) => say({ values: Float32Array.of(x, y, z), height: 1, width: 1 }, picture, 0, 0);
  expect(at(0, -1, 0)).toBe("down");
  expect(at(0.6, 0, 0.8)).toBe("to the camera, 37° off");
  expect(at(0, 0, 0)).toBe("unknown");
});

test("a deployment of another version is refused in a sentence", () => {
  expect(() => parse('{"format": "edgemtl web 9"}')).toThrow(/Deploy again/);
});

describe("the self-test", () => {
  const map: StoredMap = { sha256: [], shape: [4, 4], step: 2, integers: false, offset: 0 };
  const bounds = { rms: 1e-3, largest: 1, agreement: 0.9999 };
  const values = Float32Array.from({ length: 16 }, (_, index) => index / 3);

  async function verdict(got: Float32Array, exact: boolean, hash?: string) {
    const stored = { ...map, sha256: [hash ?? (await sha256(canonical(values)))] };
    const deployment = { tasks: [{ name: "depth", exact }], bounds, selftest: { frames: 1, tasks: { depth: stored } } } as unknown as Deployment;
    const wanted = Float32Array.from(kept(values, map)).buffer;
    return (await judge(deployment, wanted, [{ depth: { values: got, height: 4, width: 4 } }]))[0]!;
  }

  test("equal", async () => expect(await verdict(values.slice(), true)).toMatchObject({ state: "equal", text: "" }));

  test("-0 is 0", async () => {
    const zeros = values.map((value, index) => (index ? value : -0));
    expect(await verdict(zeros, true)).toMatchObject({ state: "equal" });
  });

  const near = values.map((value) => Math.fround(value * (1 + 1e-5)));
  test("near is within bounds, unless it was to be equal", async () => {
    expect(await verdict(near, false)).toMatchObject({ state: "within" });
    expect(await verdict(near, true)).toMatchObject({ state: "wrong", text: expect.stringMatching(/must be equal$/) });
  });

  test("another hash of equal values: something between the kept ones differs", async () => {
    expect(await verdict(values.slice(), true, "0".repeat(64))).toMatchObject({ state: "wrong" });
  });

  test.each([[values.map((value) => value * 2)], [values.map(() => NaN)], [values.slice(1)]])("wrong (%#)", async (got) => {
    expect(await verdict(got, false)).toMatchObject({ state: "wrong" });
  });

  test("the values kept are those of selftest.py", () => {
    expect(kept(Float32Array.from({ length: 16 }, (_, index) => index), map)).toEqual([5, 7, 13, 15]);
  });
});
