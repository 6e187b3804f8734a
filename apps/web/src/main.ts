// The page: loads what was deployed, tests it on this device, and shows it live.

import { machine, noGPU, threads, type Machine } from "./choose";
import { parse, type Deployment, type Runtime } from "./deployment";
import { Died, Engine } from "./engine";
import { load, site, tidy } from "./files";
import { surface } from "./legend";
import { megabytes, Meter } from "./measure";
import type { Maps } from "./protocol";
import { called, facts, text, words, type State } from "./report";
import { sha256, type Result } from "./selftest";
import { camera, file, type Kind, type Source } from "./sources";
import { View } from "./view";

const RESTARTS = 3; // of a worker, within a minute
const query = new URLSearchParams(location.search);
const at = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

site.base = document.baseURI;

class App {
  private engine!: Engine;
  private result: Result | null = null;
  private view!: View;
  private source: Source | null = null;
  private meter = new Meter();
  private paused = false;
  private resume: (() => void) | null = null;
  private asked = 0; // how many sources were asked for: an older one comes too late
  private run = 0; // the live loop's number: an older one ends
  private deaths: number[] = [];
  private why: string[] = [];
  private others: string[] = [];
  private problem = "";
  private accepted = ""; // the failed self-test whose pictures somebody wanted to see
  private restarting: Promise<boolean> | null = null;
  private canvases = [surface(1, 1), surface(1, 1)]; // the frame being inferred, and the one on the page

  private constructor(private deployment: Deployment, private here: Machine) {}

  static async start(): Promise<void> {
    const deployment = await described();
    if (await isolating()) return; // the page loads anew
    const app = new App(deployment, await machine());
    at("title").textContent = deployment.recipe;
    await app.open();
    app.controls();
    Object.assign(globalThis, { edgemtl: app }); // for the console, and for tests
    if (app.result && !app.result.ok) await app.refused(app.result);
    at("loading").hidden = true;
    at("stage").hidden = document.querySelector("footer")!.hidden = false;
    await app.choose(deployment.clip ? "clip" : "file");
    if (app.problem) notice(app.problem);
    void app.tryGPU();
    const { models, runtimes, selftest, clip } = deployment;
    const files = [models.wasm, models.webgpu, selftest?.file, clip, ...Object.values(runtimes).map((of) => of.binary)];
    void tidy(files.filter((info) => info != null));
  }

  /** Opens what the address asks for, or wasm, and tests it. */
  private async open(): Promise<void> {
    const wanted = query.get("runtime") as Runtime | null;
    const reason = noGPU(this.here, Boolean(this.deployment.models.webgpu), wanted ?? undefined);
    if (reason) this.others.push(`WebGPU was not tried: ${reason}`);
    if (wanted === "webgpu" && reason) this.problem = `WebGPU cannot run here: ${reason}. It runs on wasm.`;
    if (wanted === "webgpu" && !reason) {
      try {
        return this.take(await this.tested("webgpu"));
      } catch (error) {
        this.others.push(`WebGPU: ${sentence(error)}`);
        this.problem = `WebGPU is not used: ${sentence(error)}.`;
      }
    }
    this.take(await this.tested("wasm"));
  }

  /** An engine and its self-test's result; an Error in a sentence where it does not run, or WebGPU does not pass. */
  private async tested(runtime: Runtime): Promise<[Engine, Result | null]> {
    const gpu = runtime === "webgpu";
    const engine = await Engine.open(this.deployment, runtime, gpu ? 1 : this.threads()[0], progress("Loading the model"));
    try {
      progress(`Testing it on this device${gpu ? "’s GPU" : ""}`);
      const result = this.deployment.selftest ? await engine.test() : null;
      return [engine, gpu && result ? passed(result) : result];
    } catch (error) {
      engine.close();
      throw error;
    }
  }

  /** Runs on this engine from now on. */
  private take([engine, result]: [Engine, Result | null]): void {
    [this.engine, this.result] = [engine, result];
    const why = this.threads()[1];
    this.why = engine.runtime === "wasm" && why ? [why] : [];
    at("where").textContent = called(engine);
    this.meter.restart();
  }

  private threads(): [count: number, why: string] {
    return threads(this.here, Number(query.get("threads")) || undefined);
  }

  /** Tests WebGPU beside the live picture, and goes over to it where it passes and is not slower. */
  private async tryGPU(): Promise<void> {
    const wanted = query.get("runtime") as Runtime | null;
    const none = noGPU(this.here, Boolean(this.deployment.models.webgpu), wanted ?? undefined);
    if (none || wanted || !this.result) return;
    const cpu = this.result.milliseconds;
    let spare: Engine | null = null;
    try {
      const made = await this.tested("webgpu");
      spare = made[0];
      const gpu = made[1]!.milliseconds;
      if (gpu > cpu) throw new Error(`it passed its self-test, and took ${gpu.toFixed(1)} ms a frame where wasm takes ${cpu.toFixed(1)} ms`);
      this.others.push(`wasm on ${this.engine.threads} threads: ${cpu.toFixed(1)} ms a frame`);
      spare = this.engine;
      this.take(made);
      await new Promise((resolve) => setTimeout(resolve, 1000)); // the other one's last frame
    } catch (error) {
      this.others.push(`WebGPU: ${sentence(error)}`);
    }
    spare?.close();
    document.body.dataset.settled = "yes";
    this.show();
  }

  /** Says that the self-test failed, and waits until somebody wants to see the pictures all the same. */
  private async refused(result: Result): Promise<void> {
    const wrong = result.verdicts.filter((verdict) => verdict.state === "wrong").map((verdict) => `${verdict.task} is ${verdict.text}`);
    const said = `This browser computes something else than torch did: ${wrong.join("; ")}. The pictures would be wrong.`;
    if (said === this.accepted) return; // of an earlier worker
    at("loading").hidden = true;
    document.querySelector("footer")!.hidden = false;
    notice(said);
    asking(true);
    this.show();
    await new Promise((resolve) => at("anyway").addEventListener("click", resolve, { once: true }));
    asking(false);
    at("notice").hidden = true;
    this.accepted = said;
  }

  // ---- live

  /** Shows another source. */
  async choose(kind: Kind, data?: File): Promise<void> {
    if (!at("anyway").hidden) return; // it is asked first
    const number = ++this.asked;
    const before = this.source;
    const closed = before && isCamera(before.kind) && isCamera(kind);
    if (closed) before.close(); // a phone opens one at a time
    pressed(kind);
    let source: Source;
    try {
      if (kind === "clip") source = await file(new Blob([await load(this.deployment.clip!)], { type: "video/webm" }), "rendered rooms", "clip");
      else if (kind === "file") {
        if (!data) return;
        source = await file(data, data.name);
      } else source = await camera(kind);
    } catch (error) {
      if (number !== this.asked) return;
      if (before && !closed) pressed(before.kind); // it goes on
      notice(sentence(error));
      return;
    }
    if (number !== this.asked) return source.close();
    at("notice").hidden = true;
    before?.close();
    this.resume?.();
    this.source = source;
    source.lost = () => notice("The camera is gone. Plug it in again, then tap a camera.");
    this.view.caption({ clip: "Rendered rooms", file: "File", front: "Front camera", back: "Camera" }[kind]);
    this.pause(false);
    this.meter.restart();
    void this.live(source, ++this.run);
  }

  /** Frames until there is another source: while one is drawn, the next is being inferred; in between, the newest wins. */
  private async live(source: Source, number: number): Promise<void> {
    let turn = 0;
    const send = async () => {
      await source.next();
      if (this.paused) await new Promise<void>((resolve) => (this.resume = resolve));
      if (number !== this.run) return null;
      const context = this.canvases[turn++ % 2]!;
      const began = performance.now();
      const captured = source.grab(context);
      const bitmap = await createImageBitmap(context.canvas);
      const grabbed = performance.now();
      const engine = this.engine;
      try {
        const maps = await engine.frame(bitmap);
        return { maps, captured, began, grabbed, answered: performance.now(), canvas: context.canvas };
      } catch (error) {
        if (engine !== this.engine) return undefined; // another one has taken its place meanwhile
        throw error;
      }
    };
    let flight = send();
    for (;;) {
      try {
        const done = await flight;
        if (done === null || number !== this.run) return;
        flight = send();
        flight.catch(() => {}); // it is awaited above
        if (done) this.draw(done.maps, done);
      } catch (error) {
        if (number !== this.run || !(await this.restarted(error))) return;
        flight = send();
      }
    }
  }

  private draw(maps: Maps, of: { captured: number; began: number; grabbed: number; answered: number; canvas: HTMLCanvasElement }): void {
    this.view.draw(of.canvas, maps.pictures);
    const now = performance.now();
    const { fit, infer, paint } = maps.timing;
    const stages = {
      waiting: Math.max(0, of.began - of.captured),
      capture: of.grabbed - of.began,
      fitting: fit,
      network: infer,
      painting: paint,
      handing: Math.max(0, of.answered - of.grabbed - fit - infer - paint),
      drawing: now - of.answered,
    };
    this.meter.add(this.source?.still ? { ...stages, waiting: 0 } : stages, now);
    if (this.meter.frames % 5 === 0 || this.meter.frames < 5 || this.source?.still) this.show();
  }

  /** Whether a new worker could take the place of one that died. It is tested as the first one was. */
  private restarted(error: unknown): Promise<boolean> {
    return (this.restarting ??= this.restart(error).finally(() => (this.restarting = null)));
  }

  private async restart(error: unknown): Promise<boolean> {
    const now = performance.now();
    const dead = this.engine;
    const stopped = `The worker stopped (${sentence(error)})`;
    this.deaths = [...this.deaths.filter((time) => now - time < 60_000), now];
    this.result = null; // it was the dead one's
    this.show();
    dead.close();
    if (this.deaths.length > RESTARTS) {
      notice(`The worker stopped ${this.deaths.length} times within a minute (${sentence(error)}). Reload the page to try again.`);
      return false;
    }
    notice(`${stopped}. It is being started anew and tested.`);
    try {
      const made = (await this.testedGPU(dead.runtime, error)) ?? (await this.tested("wasm"));
      if (this.engine !== dead) made[0].close(); // WebGPU has taken its place meanwhile
      else this.take(made);
    } catch (again) {
      if (again instanceof Died) return this.restart(again);
      notice(`${stopped} and could not be started anew: ${sentence(again)}`);
      return false;
    }
    document.body.dataset.restarts = String(Number(document.body.dataset.restarts ?? 0) + 1);
    const result = this.result as Result | null;
    if (result && !result.ok) await this.refused(result);
    notice(`${stopped} and was started anew${result ? (result.ok ? ", tested again: it computes what torch did" : "; its self-test fails") : ""}.`);
    return true;
  }

  /** WebGPU anew, after its first death; null where it failed, dies often or does not pass, and wasm is to run. */
  private async testedGPU(runtime: Runtime, error: unknown): Promise<[Engine, Result | null] | null> {
    if (runtime !== "webgpu") return null;
    try {
      if (!(error instanceof Died) || this.deaths.length > 1) throw error;
      return await this.tested("webgpu");
    } catch (reason) {
      this.others.push(`WebGPU: ${sentence(reason)}`);
      return null;
    }
  }

  pause(on = !this.paused): void {
    this.paused = on;
    at("pause").setAttribute("aria-pressed", String(on));
    at("pause").querySelector("span")!.textContent = on ? "Go on" : "Pause";
    if (on) return;
    this.meter.restart();
    this.resume?.();
    this.resume = null;
  }

  // ---- the page

  private controls(): void {
    this.view = new View(this.deployment, at("stage"), at("tasks"));
    const touch = matchMedia("(pointer: coarse)").matches;
    document.querySelectorAll<HTMLButtonElement>("[data-source]").forEach((button) => {
      const kind = button.dataset.source as Kind;
      if (kind === "front" && !touch) button.hidden = true; // a laptop has one
      if (kind === "back" && touch) button.querySelector("span")!.textContent = "Back";
      if (kind === "clip" && !this.deployment.clip) button.hidden = true;
      button.addEventListener("click", () => (kind === "file" ? at("file").click() : void this.choose(kind)));
    });
    at<HTMLInputElement>("file").addEventListener("change", (event) => {
      const input = event.target as HTMLInputElement;
      if (input.files?.[0]) void this.choose("file", input.files[0]);
      input.value = "";
    });
    at("view").addEventListener("click", () => {
      this.view.show(this.view.kind === "tiles" ? "overlay" : "tiles");
      this.show();
    });
    at("pause").addEventListener("click", () => this.pause());
    at("details").addEventListener("click", () => (at<HTMLDialogElement>("sheet").showModal(), this.show()));
    at("close").addEventListener("click", () => at<HTMLDialogElement>("sheet").close());
    at("sheet").addEventListener("click", (event) => event.target === at("sheet") && at<HTMLDialogElement>("sheet").close());
    at("copy").addEventListener("click", () => void this.copy());
    document.addEventListener("pointerdown", (event) => {
      if (!(event.target as Element).closest(".picture")) this.view.forget();
    });
  }

  state(): State {
    return {
      deployment: this.deployment,
      runtime: this.engine.runtime,
      threads: this.engine.threads,
      why: this.why,
      verdicts: this.result?.verdicts ?? [],
      others: this.others,
      rate: this.meter.rate(),
      stages: this.meter.medians(),
      memory: this.memory(),
      frames: this.meter.frames,
      source: this.source ? `${this.source.name}, ${this.source.size[1]}×${this.source.size[0]}` : "none",
    };
  }

  private memory(): string[] {
    const said = [`network ${megabytes(this.engine.memory)}`];
    const heap = (performance as { memory?: { usedJSHeapSize: number } }).memory;
    if (heap) said.push(`page ${megabytes(heap.usedJSHeapSize)}`);
    return said;
  }

  private show(): void {
    const state = this.state();
    at("rate").textContent = this.source?.still ? "still" : state.rate ? `${state.rate.toFixed(state.rate < 10 ? 1 : 0)} fps` : "";
    at("view").querySelector("span")!.textContent = this.view?.kind === "overlay" ? "Tiles" : "Overlay";
    const total = Object.values(state.stages).reduce((sum, ms) => sum + ms, 0);
    this.view?.reading(this.source?.still ? this.source.name : `${total.toFixed(0)} ms from capture to picture, ${(state.stages.network ?? 0).toFixed(0)} ms of it the network`);
    const ok = this.result?.ok;
    at("details").dataset.state = ok === undefined ? "none" : ok ? "ok" : "wrong";
    if (!this.view || (!at<HTMLDialogElement>("sheet").open && this.meter.frames % 10)) return;
    at("verdicts").replaceChildren(...state.verdicts.map((verdict) => {
      const item = document.createElement("li");
      item.className = verdict.state;
      const title = this.deployment.tasks.find((task) => task.name === verdict.task)!.title;
      item.append(Object.assign(document.createElement("b"), { textContent: title }), words(verdict));
      return item;
    }));
    if (!state.verdicts.length) {
      const none = "This artifact has no self-test. Convert it again to give it one.";
      at("verdicts").textContent = this.deployment.selftest ? "The worker that was tested is gone; a new one is being tested." : none;
    }
    this.stages(state);
    at("facts").replaceChildren(...facts(state).flatMap(([name, value]) => pair(name, value)));
  }

  private stages(state: State): void {
    const entries = Object.entries(state.stages);
    const total = entries.reduce((sum, [, ms]) => sum + ms, 0);
    const bar = document.querySelector<HTMLElement>("#stages .bar")!;
    bar.replaceChildren(...entries.map(([, ms], index) => {
      const part = document.createElement("i");
      part.style.flexGrow = String(ms / (total || 1));
      part.dataset.stage = String(index);
      return part;
    }));
    const rows = entries.flatMap(([name, ms], index) => {
      const [dt, dd] = pair(name, `${ms.toFixed(1)} ms`);
      dt!.dataset.stage = String(index);
      return [dt!, dd!];
    });
    document.querySelector("#stages dl")!.replaceChildren(...rows, ...pair("from capture to picture", `${total.toFixed(0)} ms`));
  }

  private async copy(): Promise<void> {
    const said = text(this.state());
    try {
      await navigator.clipboard.writeText(said);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: said });
      at("sheet").append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    at("copy").textContent = "Copied";
    setTimeout(() => (at("copy").textContent = "Copy all this as text"), 2000);
  }
}

const isCamera = (kind: Kind): boolean => kind === "front" || kind === "back";

/** Marks the source that is shown. */
function pressed(kind: Kind): void {
  document.querySelectorAll<HTMLElement>("[data-source]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.source === kind)));
}

function pair(name: string, value: string): HTMLElement[] {
  return [["dt", name], ["dd", value]].map(([tag, textContent]) => Object.assign(document.createElement(tag!), { textContent }));
}

/** The deployment, where it is the one that this page was deployed with. */
async function described(): Promise<Deployment> {
  if (!globalThis.isSecureContext) {
    throw new Error("This page needs an address with https, or localhost: elsewhere a browser gives it neither a camera nor a way to check its files.");
  }
  const wanted = document.querySelector<HTMLMetaElement>("meta[name=deployment]")!.content;
  let response: Response;
  try {
    response = await fetch(new URL("model.json", site.base));
  } catch {
    throw new Error("model.json cannot be fetched: there is no connection.");
  }
  if (!response.ok) throw new Error(`There is no model here: model.json is missing (status ${response.status}). Upload the whole folder that deploy wrote.`);
  const bytes = await response.arrayBuffer();
  if ((await sha256(bytes)) !== wanted) throw new Error("model.json is not the file that was deployed: its SHA-256 differs. Upload the folder again.");
  return parse(new TextDecoder().decode(bytes));
}

/** Registers the service worker; whether the page loads anew, to get from it the headers that its host does not send. */
async function isolating(): Promise<boolean> {
  if (!("serviceWorker" in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register(new URL("sw.js", site.base));
    if (globalThis.crossOriginIsolated || sessionStorage.getItem("isolating")) return false;
    await Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => setTimeout(resolve, 5000))]);
    if (!registration.active) return false;
    sessionStorage.setItem("isolating", "tried"); // once: where it does not help, one thread does
    location.reload();
    return true;
  } catch {
    return false;
  }
}

/** Says what is being done, and gives what shows how far it is. */
function progress(what: string): (share: number) => void {
  at("headline").textContent = what;
  const bar = at<HTMLProgressElement>("progress");
  bar.removeAttribute("value");
  return (share) => (bar.value = share);
}

/** The result, where it is good; an Error in a sentence where not. */
function passed(result: Result): Result {
  const wrong = result.verdicts.filter((verdict) => verdict.state === "wrong");
  if (wrong.length) throw new Error(`its self-test failed: ${wrong.map((verdict) => `${verdict.task} ${verdict.text}`).join(", ")}`);
  return result;
}

/** Whether the page waits for "Show it anyway": nothing else can be chosen then. */
function asking(on: boolean): void {
  at("anyway").hidden = !on;
  at("dismiss").hidden = on;
  document.querySelectorAll<HTMLButtonElement>("[data-source]").forEach((button) => (button.disabled = on));
}

function notice(said: string): void {
  at("notice").hidden = false;
  at("notice").querySelector("p")!.textContent = said;
}

function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

at("dismiss").addEventListener("click", () => (at("notice").hidden = true));
App.start().catch((error) => {
  at("loading").hidden = true;
  notice(sentence(error));
});
