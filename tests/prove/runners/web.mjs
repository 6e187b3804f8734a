// onnxruntime-web's WebAssembly build in node: PACKAGE FOLDER FRAMES.npy RESULTS. One thread, SIMD.
// FOLDER has model.onnx, probed.onnx and probed.json; what is left in RESULTS is told in results.py.

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [place, folder, framesFile, resultsFolder] = process.argv.slice(2);
const started = performance.now();
const ort = await import(pathToFileURL(path.join(place, "dist", "ort.wasm.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = pathToFileURL(path.join(place, "dist") + path.sep).href;
ort.env.logLevel = "error";

function readNpy(file) {
  const bytes = fs.readFileSync(file);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString("latin1", 10, start);
  if (bytes[6] !== 1 || !header.includes("'|u1'") || header.includes("'fortran_order': True"))
    throw new Error(`${file} holds no uint8 frames: ${header}`);
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").map(Number);
  return { shape, data: bytes.subarray(start) };
}

const TYPES = { float32: "<f4", int32: "<i4", int64: "<i8", int8: "|i1" };

class Results {
  constructor(folder, frames) {
    fs.mkdirSync(folder, { recursive: true });
    Object.assign(this, { folder, frames, outputs: [], files: [] });
  }
  put(name, frame, type, dims, data) {
    let index = this.outputs.indexOf(name);
    if (index < 0) {
      index = this.outputs.push(name) - 1;
      const shape = [this.frames, ...dims].map((n) => `${n}, `).join("");
      let header = `{'descr': '${TYPES[type]}', 'fortran_order': False, 'shape': (${shape}), }`;
      header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 + 53) + "\n";
      const start = Buffer.from("\x93NUMPY\x01\x00\x00\x00", "latin1");
      start.writeUInt16LE(header.length, 8);
      const file = fs.openSync(path.join(this.folder, `${index}.npy`), "w");
      fs.writeSync(file, start);
      fs.writeSync(file, header, null, "latin1");
      this.files.push(file);
    }
    fs.writeSync(this.files[index], new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  close(about) {
    this.files.forEach((file) => fs.closeSync(file));
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    fs.writeFileSync(path.join(this.folder, "index.json"), JSON.stringify({ outputs: this.outputs, seconds, ...about }));
  }
}

const frames = readNpy(framesFile);
const [count, height, width] = frames.shape;
const { tasks, codes } = JSON.parse(fs.readFileSync(path.join(folder, "probed.json")));
const results = new Results(resultsFolder, count);
const open = (name) => ort.InferenceSession.create(fs.readFileSync(path.join(folder, name)), { executionProviders: ["wasm"] });
const [plain, probed] = [await open("model.onnx"), await open("probed.onnx")];
let same = true;
for (let index = 0; index < count; index++) {
  const size = height * width * 3;
  const frame = new ort.Tensor("uint8", frames.data.slice(index * size, (index + 1) * size), [1, height, width, 3]);
  const maps = await plain.run({ frame }, tasks);
  const inside = await probed.run({ frame });
  for (const task of tasks) {
    const [one, other] = [maps[task].data, inside[task].data];
    same &&= one.every((value, i) => value === other[i]);
    results.put(`map ${task}`, index, maps[task].type, maps[task].dims.slice(1), one);
  }
  for (const [name, [output, scale]] of Object.entries(codes)) {
    const { data, dims } = inside[output];
    if (scale !== null) throw new Error(`${name}: its output must hold codes`);
    results.put(`code ${name}`, index, "int8", dims, Int8Array.from(data));
  }
}
results.close({ version: ort.env.versions?.common ?? "", kernels: {}, probed_same: Boolean(same) });
