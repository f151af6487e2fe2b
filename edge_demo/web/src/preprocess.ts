/**
 * From the pixels of a picture to those that a model sees, equal to `edge_demo.preprocess.to_pixels`.
 *
 * The resize is Pillow's (src/libImaging/Resample.c): antialiased, in fixed point, columns and then
 * rows, each rounded and clipped to a grey level. A canvas would resize otherwise in every browser.
 */

import type { PreprocessSpec } from "./types";

/** A part of a picture's columns and rows: left <= x < right. */
export interface Area {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** A picture; `read` gives the RGBA bytes of an area, row by row. */
export interface Source {
  width: number;
  height: number;
  read(area: Area): Uint8ClampedArray | Uint8Array;
}

/** What each output value of one axis is made of: `count` inputs from `first` on, times `weights`. */
interface Axis {
  first: Int32Array;
  count: Int32Array;
  /** Fixed point, `taps` for each output. */
  weights: Int32Array;
  taps: number;
}

const PRECISION_BITS = 32 - 8 - 2; // of a weight: a byte times it, and a sum of such, is an int32
const HALF = 1 << (PRECISION_BITS - 1);
const STRIP_PIXELS = 1 << 20; // read at once: a photo of 48 megapixels never lies in memory whole

/** Interpolation -> how far it reaches, and the weight of an input at a distance. */
const KERNELS: Record<PreprocessSpec["interpolation"], [number, (x: number) => number]> = {
  bilinear: [1, (x) => (x < 1 ? 1 - x : 0)],
  bicubic: [
    2,
    (x) => {
      const a = -0.5;
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  ],
};

/** The part of a picture that is resized to the input. */
export function sourceBox(width: number, height: number, spec: PreprocessSpec): Area {
  if (spec.resize === "squash") return { left: 0, top: 0, right: width, bottom: height };
  const scale = spec.crop_fraction * Math.min(height / spec.height, width / spec.width);
  const left = (width - Math.min(spec.width * scale, width)) / 2;
  const top = (height - Math.min(spec.height * scale, height)) / 2;
  return { left, top, right: width - left, bottom: height - top };
}

/** Grey levels 0-255 of the model's input, RGB: [height, width, 3]. */
export function toPixels(source: Source, spec: PreprocessSpec): Uint8Array<ArrayBuffer> {
  const box = sourceBox(source.width, source.height, spec);
  const columns = axis(source.width, box.left, box.right, spec.width, spec.interpolation);
  const rows = axis(source.height, box.top, box.bottom, spec.height, spec.interpolation);
  const [left, right] = reach(columns);
  const [top, bottom] = reach(rows);
  const narrow = new Uint8Array((bottom - top) * spec.width * 3);
  const height = Math.max(1, Math.floor(STRIP_PIXELS / (right - left)));
  for (let y = top; y < bottom; y += height) {
    const strip = { left, top: y, right, bottom: Math.min(y + height, bottom) };
    const target = narrow.subarray(
      (y - top) * spec.width * 3,
      (strip.bottom - top) * spec.width * 3,
    );
    resizeColumns(source.read(strip), right - left, columns, left, target);
  }
  return resizeRows(narrow, spec.width * 3, rows, top);
}

/** A model's input, float32: (pixels - mean) / std. */
export function normalise(pixels: Uint8Array, { mean, std }: PreprocessSpec): Float32Array {
  const means = Float32Array.from(mean);
  const stds = Float32Array.from(std);
  const input = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i += 3) {
    for (let c = 0; c < 3; c++) input[i + c] = Math.fround(pixels[i + c] - means[c]) / stds[c];
  }
  return input;
}

/** RGBA [rows, width] to RGB [rows, outputs]; `left` is the picture's column of the first one here. */
function resizeColumns(
  rgba: Uint8ClampedArray | Uint8Array,
  width: number,
  { first, count, weights, taps }: Axis,
  left: number,
  target: Uint8Array,
): void {
  const outputs = first.length;
  for (let row = 0, out = 0; out < target.length; row++) {
    for (let x = 0; x < outputs; x++, out += 3) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let at = (row * width + first[x] - left) * 4;
      const end = x * taps + count[x];
      for (let k = x * taps; k < end; k++, at += 4) {
        const weight = weights[k];
        r = (r + Math.imul(rgba[at], weight)) | 0;
        g = (g + Math.imul(rgba[at + 1], weight)) | 0;
        b = (b + Math.imul(rgba[at + 2], weight)) | 0;
      }
      target[out] = clip(r);
      target[out + 1] = clip(g);
      target[out + 2] = clip(b);
    }
  }
}

/** Bytes [rows, width] to [outputs, width]; `top` is the picture's row of the first one here. */
function resizeRows(
  bytes: Uint8Array,
  width: number,
  { first, count, weights, taps }: Axis,
  top: number,
): Uint8Array<ArrayBuffer> {
  const resized = new Uint8Array(first.length * width);
  const sums = new Int32Array(width);
  for (let y = 0; y < first.length; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const weight = weights[y * taps + k];
      const row = (first[y] - top + k) * width;
      for (let i = 0; i < width; i++) sums[i] += Math.imul(bytes[row + i], weight);
    }
    for (let i = 0; i < width; i++) resized[y * width + i] = clip(sums[i]);
  }
  return resized;
}

function clip(sum: number): number {
  const level = sum >> PRECISION_BITS;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

function reach({ first, count }: Axis): [number, number] {
  const last = first.length - 1;
  return [first[0], first[last] + count[last]];
}

const axes = new Map<string, Axis>();

/** The axis of a size, which the frames of a camera share. */
function axis(...size: Parameters<typeof makeAxis>): Axis {
  const key = size.join();
  let found = axes.get(key);
  if (!found) {
    if (axes.size >= 16) axes.clear();
    found = makeAxis(...size);
    axes.set(key, found);
  }
  return found;
}

/** `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow, whose box is of single precision. */
function makeAxis(
  inputs: number,
  from: number,
  to: number,
  outputs: number,
  interpolation: PreprocessSpec["interpolation"],
): Axis {
  const [extent, kernel] = KERNELS[interpolation];
  const start = Math.fround(from);
  const scale = Math.fround(Math.fround(to) - start) / outputs;
  const stretch = Math.max(scale, 1);
  const support = extent * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outputs);
  const count = new Int32Array(outputs);
  const weights = new Int32Array(outputs * taps);
  const exact = new Float64Array(taps);
  for (let out = 0; out < outputs; out++) {
    const centre = start + (out + 0.5) * scale;
    first[out] = Math.max(0, Math.trunc(centre - support + 0.5));
    count[out] = Math.min(inputs, Math.trunc(centre + support + 0.5)) - first[out];
    let sum = 0;
    for (let k = 0; k < count[out]; k++) {
      exact[k] = kernel(Math.abs((k + first[out] - centre + 0.5) * (1 / stretch)));
      sum += exact[k];
    }
    for (let k = 0; k < count[out]; k++) {
      const share = (sum === 0 ? exact[k] : exact[k] / sum) * 2 ** PRECISION_BITS;
      weights[out * taps + k] = Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    }
  }
  return { first, count, weights, taps };
}
