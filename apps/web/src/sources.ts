// Where frames come from: a camera, a file, the rendered clip. Errors are sentences.

import type { Size } from "./deployment";

export type Kind = "front" | "back" | "file" | "clip";

const LARGEST = 640; // pixels across of what is shown; the network takes less

export interface Source {
  kind: Kind;
  name: string;
  still: boolean; // one picture, which never changes
  size: Size; // of the frames, at most LARGEST across
  /** The newest frame on `context`'s canvas, which gets the source's size, and when it was captured. */
  grab(context: CanvasRenderingContext2D): number;
  /** When there is another frame than the one grabbed last. */
  next(): Promise<void>;
  close(): void;
  lost?: () => void; // called when a camera is unplugged
}

export async function camera(kind: "front" | "back"): Promise<Source> {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This browser gives no camera to this page: cameras need an address with https, or localhost.");
  }
  let stream: MediaStream;
  try {
    const facingMode = { ideal: kind === "front" ? "user" : "environment" };
    stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode, width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    throw new Error(refused(error as DOMException));
  }
  const video = element();
  video.srcObject = stream;
  await started(video, "The camera sends no picture.");
  const [track] = stream.getVideoTracks();
  const source = film(kind, track?.label || "camera", video, () => stream.getTracks().forEach((t) => t.stop()));
  track?.addEventListener("ended", () => source.lost?.());
  return source;
}

function refused(error: DOMException): string {
  if (error.name === "NotAllowedError" || error.name === "SecurityError") {
    return "The camera was denied. Allow it for this page in the browser's settings (the icon beside the address), then tap a camera again.";
  }
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return "There is no camera on this device. A file or the rendered clip works too.";
  if (error.name === "NotReadableError") return "The camera is in use by another program. Close that, then tap a camera again.";
  return `The camera cannot be opened: ${error.message || error.name}.`;
}

/** A clip, or one picture. */
export async function file(data: Blob, name: string, kind: Kind = "file"): Promise<Source> {
  const url = URL.createObjectURL(data);
  if (data.type.startsWith("image/")) {
    const image = new Image();
    image.src = url;
    try {
      await image.decode();
    } catch {
      throw new Error(`${name} is no picture that this browser can read.`);
    } finally {
      URL.revokeObjectURL(url);
    }
    return picture(kind, name, image);
  }
  const video = element();
  video.loop = true;
  video.src = url;
  await started(video, `${name} is no film that this browser can play.`);
  return film(kind, name, video, () => URL.revokeObjectURL(url));
}

function element(): HTMLVideoElement {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true; // else an iPhone shows it full screen
  return video;
}

async function started(video: HTMLVideoElement, problem: string): Promise<void> {
  const failed = new Promise<never>((_, reject) => video.addEventListener("error", () => reject(new Error(problem)), { once: true }));
  await Promise.race([video.play(), failed]).catch((error: Error) => {
    throw error.name === "NotSupportedError" ? new Error(problem) : error;
  });
  if (!video.videoWidth) await Promise.race([failed, new Promise((resolve) => video.addEventListener("resize", resolve, { once: true }))]);
}

export function fitted(width: number, height: number): Size {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  return [Math.max(1, Math.round(height * scale)), Math.max(1, Math.round(width * scale))];
}

function drawn(context: CanvasRenderingContext2D, what: CanvasImageSource, [height, width]: Size): void {
  if (context.canvas.width !== width || context.canvas.height !== height) Object.assign(context.canvas, { width, height });
  context.drawImage(what, 0, 0, width, height);
}

function film(kind: Kind, name: string, video: HTMLVideoElement, release: () => void): Source {
  let captured = performance.now();
  let fresh = true;
  let wake: (() => void) | null = null;
  let closed = false;
  const arrived = (now: number, about?: VideoFrameCallbackMetadata) => {
    captured = about?.captureTime ?? now;
    fresh = true;
    wake?.();
    if (!closed) watch();
  };
  const watch = () => {
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(arrived);
    else requestAnimationFrame((now) => arrived(now));
  };
  watch();
  return {
    kind,
    name,
    still: false,
    get size() {
      return fitted(video.videoWidth || 1, video.videoHeight || 1); // a phone may be turned
    },
    grab(context) {
      fresh = false;
      drawn(context, video, this.size);
      return captured;
    },
    next: () => (fresh || closed ? Promise.resolve() : new Promise<void>((resolve) => (wake = resolve))),
    close() {
      closed = true;
      wake?.();
      video.pause();
      video.removeAttribute("src");
      video.srcObject = null;
      release();
    },
  };
}

function picture(kind: Kind, name: string, image: HTMLImageElement): Source {
  let wake: (() => void) | null = null;
  let grabbed = false;
  return {
    kind,
    name,
    still: true,
    size: fitted(image.naturalWidth, image.naturalHeight),
    grab(context) {
      grabbed = true;
      drawn(context, image, this.size);
      return performance.now();
    },
    next: () => (grabbed ? new Promise<void>((resolve) => (wake = resolve)) : Promise.resolve()),
    close: () => wake?.(),
  };
}
