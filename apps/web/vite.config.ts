import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { defineConfig, type Plugin } from "vite";

// The runtime's own files, as they came: what runs then has the SHA-256 that its package has.
const RUNTIME = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.jspi"];

function runtime(): Plugin {
  return {
    name: "runtime",
    generateBundle() {
      const folder = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
      for (const name of RUNTIME.flatMap((stem) => [`${stem}.mjs`, `${stem}.wasm`])) {
        this.emitFile({ type: "asset", fileName: `ort/${name}`, source: readFileSync(join(folder, name)) });
      }
    },
  };
}

export default defineConfig({
  base: "./",
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "production"] },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, license: false },
  worker: { format: "es" },
  plugins: [runtime()],
  test: { include: ["tests/**/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
