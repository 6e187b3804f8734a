// What the page knows of this device and what it computes, as text to paste into a bug report.

import type { Deployment } from "./deployment";
import type { Verdict } from "./selftest";

export interface State {
  deployment: Deployment;
  runtime: "wasm" | "webgpu";
  threads: number;
  why: string[]; // one thread, no WebGPU
  verdicts: Verdict[];
  others: string[]; // what was tried beside it
  rate: number;
  stages: Record<string, number>;
  memory: string[];
  frames: number;
  source: string;
}

const MARKS = { equal: "✓", within: "≈", wrong: "✗" };

/** A verdict in words. */
export function words(verdict: Verdict): string {
  if (verdict.state === "equal") return "equal to torch, bit for bit";
  return verdict.state === "within" ? `within bounds: ${verdict.text}` : verdict.text;
}

/** Facts by name, in the order in which they are shown. */
export function facts(state: State): [name: string, value: string][] {
  const { deployment } = state;
  const model = deployment.models[state.runtime]!;
  const binary = deployment.runtimes[state.runtime].binary;
  return [
    ["Model", `${deployment.recipe}, ${deployment.precision}, ${deployment.size[1]}×${deployment.size[0]}`],
    ["Runs on", `ONNX Runtime Web ${deployment.runtimeVersion}, ${called(state)}`],
    ...state.why.map((why): [string, string] => ["Because", why]),
    ...state.others.map((other): [string, string] => ["Also tried", other]),
    ["Source", state.source],
    ["Frames shown", String(state.frames)],
    ["Memory", state.memory.join(" · ")],
    [`SHA-256 of ${model.name.split("/").pop()}`, model.sha256],
    [`SHA-256 of ${binary.name.split("/").pop()}`, binary.sha256],
    ["Artifact", deployment.digest],
    ["Browser", navigator.userAgent],
  ];
}

export function called(state: Pick<State, "runtime" | "threads">): string {
  return state.runtime === "webgpu" ? "WebGPU" : `wasm on ${state.threads} thread${state.threads === 1 ? "" : "s"}`;
}

export function text(state: State): string {
  const lines = [`edgemtl ${state.deployment.edgemtl} in a browser`];
  lines.push(...state.verdicts.map((verdict) => `${MARKS[verdict.state]} ${verdict.task}: ${words(verdict)}`));
  if (state.rate) lines.push(`${state.rate.toFixed(1)} frames a second; ${Object.entries(state.stages).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(", ")}`);
  lines.push(...facts(state).map(([name, value]) => `${name}: ${value}`));
  return lines.join("\n");
}
