/** The picture or the camera, as large as it fits, before its own colours. */
import { sourceBox } from "../src/preprocess";
import type { Classification, PreprocessSpec } from "./classifier.js";
import { $ } from "./dom";
import { paint } from "./heat";

const TINY = 64; // pixels, below which a picture is shown pixel by pixel
const ENLARGED = 3; // times at most, since more shows no more; but to this many CSS pixels always:
const SMALLEST = 256;

export const picture = $<HTMLImageElement>("picture");
export const video = $<HTMLVideoElement>("video");
const frame = $("frame");
const heat = $<HTMLCanvasElement>("heat");
const toggle = $("attention");

let shown = { width: 1, height: 1 };
let attention: Classification["attention"];

/** Replaces what is shown, once the picture is decoded. */
export async function showPicture(blob: Blob, name: string, mirrored = false): Promise<void> {
  const url = URL.createObjectURL(blob);
  const next = new Image();
  next.src = url;
  await next.decode();
  URL.revokeObjectURL(picture.src);
  picture.src = url;
  picture.alt = name;
  frame.classList.toggle("tiny", next.naturalWidth < TINY && next.naturalHeight < TINY);
  stage(picture, next.naturalWidth, next.naturalHeight, mirrored);
  ambient(next);
}

export function showVideo(mirrored: boolean): void {
  stage(video, video.videoWidth, video.videoHeight, mirrored);
}

function stage(element: HTMLElement, width: number, height: number, mirrored: boolean): void {
  frame.hidden = false;
  picture.hidden = element !== picture;
  video.hidden = element !== video;
  frame.classList.toggle("mirrored", mirrored);
  frame.style.setProperty("--ratio", String(width / height));
  frame.style.setProperty("--most", `${Math.max(ENLARGED * width, SMALLEST)}px`);
  shown = { width, height };
  heat.hidden = true;
}

/** The newest frame of the camera as a picture. */
export async function still(): Promise<Blob> {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d")!.drawImage(video, 0, 0);
  return canvas.convertToBlob();
}

/** A few pixels of the picture, which the browser makes a soft ground of. */
export function ambient(source: HTMLImageElement | HTMLVideoElement): void {
  const { width, height } = $<HTMLCanvasElement>("ambient");
  const context = $<HTMLCanvasElement>("ambient").getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
}

/** Lets the user see where in the picture the model looked, if it tells. */
export function showAttention(found: Classification["attention"], spec: PreprocessSpec): void {
  attention = found;
  toggle.hidden = !found;
  const { left, top, right, bottom } = sourceBox(shown.width, shown.height, spec);
  heat.style.left = percent(left, shown.width);
  heat.style.top = percent(top, shown.height);
  heat.style.width = percent(right - left, shown.width);
  heat.style.height = percent(bottom - top, shown.height);
  refresh();
}

const percent = (length: number, whole: number) => `${(100 * length) / whole}%`;

function refresh(): void {
  heat.hidden = !attention || toggle.ariaPressed !== "true";
  if (attention && !heat.hidden) paint(heat, attention);
}

toggle.onclick = () => {
  toggle.ariaPressed = String(toggle.ariaPressed !== "true");
  refresh();
};
