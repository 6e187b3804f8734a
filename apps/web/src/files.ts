// Files of the deployment, held to their SHA-256, and kept in the Cache API under it, so that the page works offline.

import type { FileInfo } from "./deployment";
import { sha256 } from "./selftest";

const CACHE = "edgemtl-files";

/** Where the page lies; a worker is told, since its own address is another one. */
export const site = { base: "" };

/** The file's bytes, from the cache or the page's origin; an Error in a sentence where they are not what was deployed. */
export async function load(file: FileInfo, progress?: (bytes: number) => void): Promise<ArrayBuffer> {
  const cache = await open();
  const key = new URL(`./sha256/${file.sha256}`, site.base).href;
  const held = await cache?.match(key);
  if (held) {
    const bytes = await held.arrayBuffer();
    if ((await sha256(bytes)) === file.sha256) {
      progress?.(bytes.byteLength);
      return bytes;
    }
    await cache!.delete(key);
  }
  const bytes = await download(file, progress);
  const found = await sha256(bytes);
  if (found !== file.sha256) {
    throw new Error(`${file.name} is not the file that was deployed: its SHA-256 begins with ${found.slice(0, 12)}, expected ${file.sha256.slice(0, 12)}. Upload the folder again.`);
  }
  try {
    await cache?.put(key, new Response(bytes.slice(0)));
  } catch {
    // no room: it will be fetched again next time
  }
  return bytes;
}

/** Removes what earlier deployments left. */
export async function tidy(current: FileInfo[]): Promise<void> {
  const cache = await open();
  const wanted = new Set(current.map((file) => file.sha256));
  for (const request of (await cache?.keys()) ?? []) {
    if (!wanted.has(request.url.split("/").pop()!)) await cache!.delete(request);
  }
}

async function open(): Promise<Cache | null> {
  try {
    return await caches.open(CACHE);
  } catch {
    return null; // a private window may have none
  }
}

async function download(file: FileInfo, progress?: (bytes: number) => void): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(new URL(file.name, site.base));
  } catch {
    throw new Error(`${file.name} cannot be fetched: there is no connection, and it was not kept on an earlier visit.`);
  }
  if (!response.ok) throw new Error(`${file.name} is missing on this site (status ${response.status}). Upload the whole folder that deploy wrote.`);
  if (!response.body) return response.arrayBuffer();
  const bytes = new Uint8Array(file.bytes);
  let filled = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > bytes.length) throw new Error(`${file.name} is longer than the file that was deployed. Upload the folder again.`);
    bytes.set(value, filled);
    filled += value.length;
    progress?.(filled);
  }
  return bytes.buffer.slice(0, filled);
}
