// Inference, away from the page: one runtime with one session. What comes in and goes out is in protocol.ts.

import type * as ORT from "onnxruntime-web";
import type { Deployment } from "./deployment";
import { load, site } from "./files";
import { canvas, place, shrunk } from "./fit";
import { paint, type Map } from "./paint";
import type { Answer, Open, Painted, Question, Timing } from "./protocol";
import { frame as storedFrame, judge, type Result } from "./selftest";

const TIMED = 5; // frames after the self-test's, whose median time is its speed
const LONGEST = 3000; // milliseconds that these may take

let memory: WebAssembly.Memory | null = null; // the runtime's, to say how much it takes
const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    if (descriptor.initial > 0) memory = this;
  }
} as typeof Memory;

let ort: typeof ORT;
let session: ORT.InferenceSession;
let deployment: Deployment;
let surface: OffscreenCanvasRenderingContext2D;

function answer(message: Answer, transfer: Transferable[] = []): void {
  postMessage(message, { transfer });
}

async function open(asked: Open): Promise<void> {
  deployment = asked.deployment;
  site.base = asked.base;
  const { runtime, threads } = asked;
  const model = deployment.models[runtime];
  if (!model) throw new Error(`This artifact has no form for ${runtime}.`);
  const { code, binary } = deployment.runtimes[runtime];
  const total = binary.bytes + model.bytes;
  const read = [0, 0];
  const progress = (index: number) => (bytes: number) => {
    read[index] = bytes;
    answer({ kind: "progress", share: (read[0]! + read[1]!) / total });
  };
  const [program, weights] = await Promise.all([load(binary, progress(0)), load(model, progress(1))]);
  ort = runtime === "webgpu" ? await import("onnxruntime-web/jspi") : await import("onnxruntime-web/wasm");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmBinary = program;
  ort.env.wasm.wasmPaths = { mjs: new URL(code.name, site.base).href };
  session = await ort.InferenceSession.create(new Uint8Array(weights), { executionProviders: [runtime], graphOptimizationLevel: "all", logSeverityLevel: 3 });
  const [height, width] = deployment.size;
  surface = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, alpha: false })!;
  answer({ kind: "opened", memory: bytes() });
}

const bytes = (): number => memory?.buffer.byteLength ?? 0;

async function infer(pixels: Uint8Array): Promise<Record<string, Map>> {
  const [height, width] = deployment.size;
  const input = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const made = await session.run({ frame: input });
  const maps: Record<string, Map> = {};
  for (const task of deployment.tasks) {
    const tensor = made[task.name];
    if (!tensor) continue;
    const [h, w] = tensor.dims.slice(-2) as [number, number];
    maps[task.name] = { values: plain((await tensor.getData()) as ArrayLike<number | bigint>), height: h, width: w };
    tensor.dispose();
  }
  input.dispose();
  return maps;
}

/** A copy of a tensor's values as int32 or float32. */
function plain(data: ArrayLike<number | bigint>): Int32Array | Float32Array {
  if (data instanceof Float32Array) return data.slice();
  return Int32Array.from(data as ArrayLike<number | bigint>, Number);
}

/** The frame (H, W, 3) as the network takes it, made as in Python where it shrinks; else the browser enlarges it. */
function pixels(bitmap: ImageBitmap): Uint8Array {
  const { size, fit, fill } = deployment;
  const whole = canvas([bitmap.height, bitmap.width], size, fit);
  const shrinks = whole[0] >= size[0] && whole[1] >= size[1];
  const [height, width] = shrinks ? whole : size;
  if (surface.canvas.width !== width || surface.canvas.height !== height) Object.assign(surface.canvas, { width, height });
  surface.fillStyle = `rgb(${fill.join(" ")})`;
  surface.fillRect(0, 0, width, height);
  surface.drawImage(bitmap, ...place([bitmap.height, bitmap.width], [height, width], fit));
  return shrunk(surface.getImageData(0, 0, width, height).data, [height, width], size);
}

async function show(asked: { id: number; bitmap: ImageBitmap }): Promise<void> {
  const began = performance.now();
  const input = pixels(asked.bitmap);
  asked.bitmap.close();
  const fitted = performance.now();
  const maps = await infer(input);
  const inferred = performance.now();
  const pictures: Record<string, Painted> = {};
  for (const task of deployment.tasks) {
    const map = maps[task.name];
    if (map) pictures[task.name] = { map, rgba: paint(map, task.picture) };
  }
  const timing: Timing = { fit: fitted - began, infer: inferred - fitted, paint: performance.now() - inferred };
  const buffers = Object.values(pictures).flatMap((made) => [made.map.values.buffer, made.rgba.buffer]);
  answer({ kind: "maps", id: asked.id, pictures, timing, memory: bytes() }, buffers as ArrayBuffer[]);
}

async function test(): Promise<Result> {
  const stored = await load(deployment.selftest!.file);
  const maps: Record<string, Map>[] = [];
  let began = performance.now();
  for (let index = 0; index < deployment.selftest!.frames; index++) {
    began = performance.now();
    maps.push(await infer(storedFrame(stored, deployment, index)));
    answer({ kind: "progress", share: (index + 1) / deployment.selftest!.frames });
  }
  const times = [performance.now() - began]; // the last one's: the first made the runtime ready
  for (let left = LONGEST - times[0]!; times.length < TIMED && left > times[0]!; left -= times.at(-1)!) {
    began = performance.now();
    await infer(storedFrame(stored, deployment, 0));
    times.push(performance.now() - began);
  }
  const verdicts = await judge(deployment, stored, maps);
  times.sort((a, b) => a - b);
  return { ok: verdicts.every((verdict) => verdict.state !== "wrong"), verdicts, milliseconds: times[times.length >> 1]! };
}

onmessage = async ({ data }: MessageEvent<Question>) => {
  try {
    if (data.kind === "open") await open(data);
    else if (data.kind === "frame") await show(data);
    else answer({ kind: "tested", result: await test() });
  } catch (error) {
    answer({ kind: "failed", reason: error instanceof Error ? error.message : String(error) });
  }
};
