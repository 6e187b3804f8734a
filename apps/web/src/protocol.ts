// What the page and its worker say to each other.

import type { Deployment, Runtime } from "./deployment";
import type { Map } from "./paint";
import type { Result } from "./selftest";

export interface Open {
  kind: "open";
  deployment: Deployment;
  base: string;
  runtime: Runtime;
  threads: number;
}

export type Question = Open | { kind: "frame"; id: number; bitmap: ImageBitmap } | { kind: "test" };

export interface Painted {
  map: Map;
  rgba: Uint8ClampedArray<ArrayBuffer>;
}

export interface Timing {
  fit: number;
  infer: number;
  paint: number;
}

export interface Maps {
  kind: "maps";
  id: number;
  pictures: Record<string, Painted>;
  timing: Timing;
  memory: number; // bytes of the runtime
}

export type Answer =
  | { kind: "progress"; share: number }
  | { kind: "opened"; memory: number }
  | { kind: "tested"; result: Result }
  | { kind: "failed"; reason: string }
  | Maps;
