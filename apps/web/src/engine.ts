// A worker that is watched: one question at a time, and an Error in a sentence when it fails, dies or hangs.

import type { Deployment, Runtime } from "./deployment";
import type { Answer, Maps, Question } from "./protocol";
import type { Result } from "./selftest";

const PATIENCE = { open: 180_000, test: 180_000, frame: 6_000 }; // milliseconds without an answer
const SLOWEST = 10; // times as long as a usual frame takes

export class Died extends Error {}

export class Engine {
  memory = 0;
  private worker: Worker;
  private waiting: { watch: () => void; resolve: (answer: Answer) => void; reject: (error: Error) => void } | null = null;
  private before: Promise<unknown> = Promise.resolve(); // the question asked last, answered or not
  private usual = 0; // milliseconds a frame
  private count = 0;
  private closed = false;

  private constructor(readonly runtime: Runtime, readonly threads: number, private progress: (share: number) => void) {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: `inference-${runtime}` });
    this.worker.onmessage = ({ data }: MessageEvent<Answer>) => this.heard(data);
    this.worker.onerror = (event) => this.fail(new Died(event.message || "the worker could not be started"));
    this.worker.onmessageerror = () => this.fail(new Died("the worker's answer could not be read"));
  }

  /** An engine with its session open; an Error with the reason where that cannot be. */
  static async open(
    deployment: Deployment, runtime: Runtime, threads: number, progress: (share: number) => void = () => {},
  ): Promise<Engine> {
    const engine = new Engine(runtime, threads, progress);
    try {
      await engine.ask({ kind: "open", deployment, base: document.baseURI, runtime, threads }, [], PATIENCE.open);
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  async test(): Promise<Result> {
    const answer = await this.ask({ kind: "test" }, [], PATIENCE.test);
    if (answer.kind !== "tested") throw new Died("the worker answered something else");
    this.usual = answer.result.milliseconds;
    return answer.result;
  }

  /** The pictures of a frame, which is given away. */
  async frame(bitmap: ImageBitmap): Promise<Maps> {
    const patience = Math.max(PATIENCE.frame, SLOWEST * this.usual);
    const id = this.count++;
    const answer = await this.ask({ kind: "frame", id, bitmap }, [bitmap], patience);
    if (answer.kind !== "maps" || answer.id !== id) throw new Died("the worker answered something else");
    this.usual = this.usual ? 0.9 * this.usual + 0.1 * answer.timing.infer : answer.timing.infer;
    return answer;
  }

  close(): void {
    this.closed = true;
    this.worker.terminate();
    this.fail(new Died("it was closed"));
  }

  /** The answer, once those to all questions before it are here: a source that ends may still be waiting for one. */
  private ask(question: Question, transfer: Transferable[], patience: number): Promise<Answer> {
    const mine = this.before.catch(() => {}).then(() => this.put(question, transfer, patience));
    this.before = mine;
    return mine;
  }

  private put(question: Question, transfer: Transferable[], patience: number): Promise<Answer> {
    if (this.closed) return Promise.reject(new Died("it was closed"));
    return new Promise<Answer>((resolve, reject) => {
      let timer = 0;
      const watch = () => {
        clearTimeout(timer);
        timer = window.setTimeout(() => this.fail(new Died(`no answer for ${Math.round(patience / 1000)} seconds`)), patience);
      };
      this.waiting = {
        watch,
        resolve: (answer) => (clearTimeout(timer), resolve(answer)),
        reject: (error) => (clearTimeout(timer), reject(error)),
      };
      watch();
      this.worker.postMessage(question, transfer);
    });
  }

  private heard(answer: Answer): void {
    if (answer.kind === "progress") {
      this.waiting?.watch(); // it lives
      return this.progress(answer.share);
    }
    if (answer.kind === "failed") return this.fail(new Error(answer.reason));
    if ("memory" in answer) this.memory = answer.memory;
    const waiting = this.waiting;
    this.waiting = null;
    waiting?.resolve(answer);
  }

  private fail(error: Error): void {
    const waiting = this.waiting;
    this.waiting = null;
    waiting?.reject(error);
  }
}
