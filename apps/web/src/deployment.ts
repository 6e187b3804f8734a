// What `edgemtl deploy --to web` wrote into model.json. Everything the page knows of a model is here.

export type Size = [height: number, width: number];
export type Colour = [number, number, number];

export interface FileInfo {
  name: string; // relative to the page
  sha256: string;
  bytes: number;
}

export interface Classes {
  kind: "classes";
  names: string[];
  table: Colour[];
}

export interface Numbers {
  kind: "numbers";
  factor: number; // from a value to its row in the table
  first: number;
  last: number;
  table: Colour[];
  unit: string;
  scale: number; // from a value to what is read out, in `unit`
  digits: number;
  ticks: [share: number, text: string][];
}

export interface Vectors {
  kind: "vectors";
  axes: [towards: string, away: string][];
}

export type Picture = (Classes | Numbers | Vectors) & { over: [below: number, above: number] };

export interface TaskInfo {
  name: string;
  title: string;
  exact: boolean; // the same bits in every runtime
  picture: Picture;
}

export interface Bounds {
  rms: number;
  largest: number;
  agreement: number;
}

export interface StoredMap {
  sha256: string[]; // of each frame's map in canonical form
  shape: number[];
  step: number; // every how many rows and columns are kept
  integers: boolean;
  offset: number; // of the kept values of all frames, in bytes
}

export interface SelfTest {
  file: FileInfo;
  frames: number;
  tasks: Record<string, StoredMap>;
}

export type Runtime = "wasm" | "webgpu";

export interface Deployment {
  format: string;
  edgemtl: string;
  recipe: string;
  precision: string;
  digest: string; // of the artifact
  size: Size;
  fit: "stretched" | "padded";
  fill: Colour;
  tasks: TaskInfo[];
  models: { wasm: FileInfo; webgpu?: FileInfo };
  runtimes: Record<Runtime, { code: FileInfo; binary: FileInfo }>;
  selftest: SelfTest | null;
  bounds: Bounds;
  clip: FileInfo | null;
  runtimeVersion: string;
}

export const FORMAT = "edgemtl web 1";

/** The deployment in model.json; its SHA-256 must be what the page was told. */
export function parse(text: string): Deployment {
  const read = JSON.parse(text) as Deployment;
  if (read.format !== FORMAT) throw new Error(`model.json is “${read.format}”, this page reads “${FORMAT}”. Deploy again.`);
  return read;
}
