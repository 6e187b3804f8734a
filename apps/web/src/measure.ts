// Frame rate, latency by stage and memory of the last frames.

const KEPT = 60;

export class Meter {
  private stages: Record<string, number[]> = {};
  private shown: number[] = [];
  frames = 0;

  /** Notes one shown frame: what each stage took, in milliseconds, and when it was shown. */
  add(stages: Record<string, number>, now: number): void {
    this.frames++;
    for (const [name, value] of Object.entries(stages)) push((this.stages[name] ??= []), value);
    push(this.shown, now);
  }

  /** Forgets the times, not the count: after a pause or another source. */
  restart(): void {
    this.stages = {};
    this.shown = [];
  }

  /** Frames a second; 0 where there are none yet. */
  rate(): number {
    const [first, last] = [this.shown[0], this.shown.at(-1)];
    return first !== undefined && last! > first ? (1000 * (this.shown.length - 1)) / (last! - first) : 0;
  }

  /** The median milliseconds of every stage. */
  medians(): Record<string, number> {
    return Object.fromEntries(Object.entries(this.stages).map(([name, values]) => [name, median(values)]));
  }
}

export function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

function push(values: number[], value: number): void {
  values.push(value);
  if (values.length > KEPT) values.shift();
}

/** Megabytes, in words. */
export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
