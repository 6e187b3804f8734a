// The pictures on the page: the frame and every task as tiles, or one task over the frame; and what is under the finger.

import type { Deployment, Size, TaskInfo } from "./deployment";
import { place } from "./fit";
import { legend, surface, type Legend } from "./legend";
import { say } from "./paint";
import type { Painted } from "./protocol";

export type Kind = "tiles" | "overlay";

const RING = 14; // pixels from a finger's middle to what is said of it

interface Tile {
  task: TaskInfo | null; // null: the frame
  figure: HTMLElement;
  context: CanvasRenderingContext2D;
  legend: Legend | null;
  mark: HTMLElement;
}

export class View {
  kind: Kind = "tiles";
  selected = 0; // the overlay's task
  private tiles: Tile[];
  private small = surface(1, 1); // a map as it is, before it is enlarged
  private finger: [x: number, y: number] | null = null;
  private last: { frame: HTMLCanvasElement; pictures: Record<string, Painted> } | null = null;

  constructor(private deployment: Deployment, private stage: HTMLElement, private choice: HTMLElement) {
    this.tiles = [null, ...deployment.tasks].map((task) => this.tile(task));
    deployment.tasks.forEach((task, index) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: task.title });
      button.addEventListener("click", () => this.show("overlay", index));
      choice.append(button);
    });
    this.show("tiles");
  }

  /** Tiles, or the overlay of one task. */
  show(kind: Kind, selected = this.selected): void {
    [this.kind, this.selected] = [kind, selected];
    this.stage.className = kind;
    this.choice.hidden = kind === "tiles";
    [...this.choice.children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === selected)));
    this.stage.replaceChildren(...(kind === "tiles" ? this.tiles : [this.tiles[1 + selected]!]).map((tile) => tile.figure));
    if (this.last) this.draw(this.last.frame, this.last.pictures);
  }

  /** Shows these pictures of a frame. */
  draw(frame: HTMLCanvasElement, pictures: Record<string, Painted>): void {
    this.last = { frame, pictures };
    const tiles = this.kind === "tiles" ? this.tiles : [this.tiles[1 + this.selected]!];
    for (const tile of tiles) {
      const made = tile.task && pictures[tile.task.name];
      const { canvas } = tile.context;
      const [height, width] = [frame.height, frame.width];
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      if (!tile.task) tile.context.drawImage(frame, 0, 0);
      else if (made) {
        this.paint(tile.context, frame, made, tile.task);
        tile.legend!.update(made.map);
      }
    }
    this.point();
  }

  private paint(context: CanvasRenderingContext2D, frame: HTMLCanvasElement, made: Painted, task: TaskInfo): void {
    const { width, height } = made.map;
    if (this.small.canvas.width !== width || this.small.canvas.height !== height) Object.assign(this.small.canvas, { width, height });
    this.small.putImageData(new ImageData(made.rgba, width, height), 0, 0);
    const [below, above] = this.kind === "overlay" ? task.picture.over : [0, 1];
    context.globalCompositeOperation = "copy";
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, frame.width, frame.height);
    context.globalCompositeOperation = "lighter"; // adds, as Python's overlay does
    if (below) {
      context.globalAlpha = below;
      context.drawImage(frame, 0, 0);
    }
    context.globalAlpha = above;
    context.imageSmoothingEnabled = task.picture.kind !== "classes"; // there is nothing between two classes
    context.imageSmoothingQuality = "medium";
    const [x, y, w, h] = this.window(frame, [height, width]);
    context.drawImage(this.small.canvas, x, y, w, h, 0, 0, frame.width, frame.height);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1;
  }

  /** The part of a map that shows the frame, in the map's pixels; the rest is what was padded. */
  private window(frame: HTMLCanvasElement, map: Size): [number, number, number, number] {
    const { size, fit } = this.deployment;
    const [x, y, w, h] = place([frame.height, frame.width], size, fit);
    const [down, across] = [map[0] / size[0], map[1] / size[1]];
    return [x * across, y * down, w * across, h * down];
  }

  private tile(task: TaskInfo | null): Tile {
    const figure = document.createElement("figure");
    const context = surface(4, 3);
    const picture = document.createElement("div");
    picture.className = "picture";
    const mark = document.createElement("div");
    mark.className = "mark";
    mark.hidden = true;
    mark.append(document.createElement("div"));
    picture.append(context.canvas, mark);
    const caption = document.createElement("figcaption");
    caption.textContent = task?.title ?? "Camera";
    const key = task ? legend(task) : null;
    const below = key?.element ?? Object.assign(document.createElement("div"), { className: "legend" });
    figure.append(caption, picture, below);
    const touch = (event: PointerEvent) => {
      const box = picture.getBoundingClientRect();
      this.finger = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.point();
    };
    picture.addEventListener("pointerdown", touch);
    picture.addEventListener("pointermove", touch);
    picture.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.forget();
    });
    picture.addEventListener("dblclick", () => task && this.show(this.kind === "tiles" ? "overlay" : "tiles", this.deployment.tasks.indexOf(task)));
    return { task, figure, context, legend: key, mark };
  }

  /** No finger any more. */
  forget(): void {
    this.finger = null;
    this.point();
  }

  /** Every task's value under the finger, in words. */
  values(): Record<string, string> {
    const found: Record<string, string> = {};
    if (!this.finger || !this.last) return found;
    for (const task of this.deployment.tasks) {
      const made = this.last.pictures[task.name];
      if (!made) continue;
      const [x, y, w, h] = this.window(this.last.frame, [made.map.height, made.map.width]);
      found[task.name] = say(made.map, task.picture, (x + this.finger[0] * w) / made.map.width, (y + this.finger[1] * h) / made.map.height);
    }
    return found;
  }

  private point(): void {
    const values = this.values();
    for (const { mark, task } of this.tiles) {
      mark.hidden = !this.finger || !this.last;
      if (!this.finger || mark.hidden) continue;
      mark.style.left = `${100 * this.finger[0]}%`;
      mark.style.top = `${100 * this.finger[1]}%`;
      const said = this.deployment.tasks.filter((one) => this.kind === "overlay" || one === task);
      mark.firstElementChild!.replaceChildren(...said.map((one) => {
        const line = document.createElement("p");
        if (said.length > 1) line.append(Object.assign(document.createElement("small"), { textContent: one.title }));
        line.append(values[one.name] ?? "");
        return line;
      }));
      this.settle(mark, this.finger);
    }
  }

  /** Moves what is said to where it is inside the picture: beside the finger, else below or above it. */
  private settle(mark: HTMLElement, [x, y]: [number, number]): void {
    const said = mark.firstElementChild as HTMLElement;
    const { clientWidth: width, clientHeight: height } = mark.parentElement!;
    const [column, row] = [x * width, y * height];
    const left = Math.min(RING, width - 4 - column - said.offsetWidth);
    const beside = left === RING;
    let top = beside ? -RING : RING;
    if (row + top + said.offsetHeight > height - 4) top = beside ? height - 4 - row - said.offsetHeight : -RING - said.offsetHeight;
    said.style.left = `${Math.max(left, 4 - column)}px`;
    said.style.top = `${Math.max(top, 4 - row)}px`;
  }

  /** What the frame is called. */
  caption(text: string): void {
    this.tiles[0]!.figure.querySelector("figcaption")!.textContent = text;
  }

  /** What is said below the frame. */
  reading(text: string): void {
    this.tiles[0]!.figure.querySelector(".legend")!.textContent = text;
  }
}
