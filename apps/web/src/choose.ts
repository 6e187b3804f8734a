// Which runtime, and on how many threads; and why, in words.

import type { Runtime } from "./deployment";

const MOST = 4; // threads; more do not help a small network, and a phone's other cores are slow ones

export interface Machine {
  isolated: boolean; // the page may share memory between threads
  cores: number;
  iphone: boolean; // or an iPad: every browser there is Safari's
  gpu: boolean; // navigator.gpu gives an adapter
  jspi: boolean; // WebAssembly can wait for the GPU
}

/** The number of threads, and why it is only one; empty where it is not. */
export function threads(machine: Machine, wanted?: number): [count: number, why: string] {
  if (!machine.isolated) return [1, "one thread, because this page is not cross-origin isolated: its host sends no COOP and COEP headers"];
  if (machine.cores < 2) return [1, "one thread, because this device tells of one core"];
  if (wanted === 1) return [1, "one thread, because the address asks for it (?threads=1)"];
  return [Math.max(1, Math.min(wanted ?? MOST, machine.cores)), ""];
}

/** Why WebGPU is not even tried; empty where it is. */
export function noGPU(machine: Machine, hasModel: boolean, wanted?: Runtime): string {
  if (wanted === "wasm") return "the address asks for wasm";
  if (!hasModel) return "this artifact has no form for WebGPU";
  if (machine.iphone && wanted !== "webgpu") return "wasm is the safe choice on iPhones and iPads: WebGPU pages are known to crash there after some hundred frames";
  if (!machine.gpu) return "this browser offers no WebGPU";
  if (!machine.jspi) return "this browser's WebAssembly cannot wait for the GPU (no JSPI)";
  return "";
}

export async function machine(): Promise<Machine> {
  const agent = navigator.userAgent;
  return {
    isolated: globalThis.crossOriginIsolated === true,
    cores: navigator.hardwareConcurrency || 1,
    // An iPad calls itself a Macintosh, but no Macintosh has a touch screen.
    iphone: /iPhone|iPad|iPod/.test(agent) || (/Macintosh/.test(agent) && navigator.maxTouchPoints > 1),
    gpu: await hasAdapter(),
    jspi: "Suspending" in WebAssembly,
  };
}

async function hasAdapter(): Promise<boolean> {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}
