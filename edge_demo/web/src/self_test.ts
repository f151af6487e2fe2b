/** Whether this browser computes what the export did: its pictures and logits, as `edge_demo.measure.parity`. */

import type { Manifest, Model, Progress, SelfTest } from "./types";
import { download, downloadJson } from "./download";
import { ClassifierError } from "./errors";

/** What is tested: pixels of a picture as it is or resized, and the logits of pixels. */
export interface Subject {
  pixels(picture: Blob, resized: boolean): Promise<Uint8Array>;
  logits(pixels: Uint8Array): Promise<Float32Array>;
}

interface Expected {
  logits: number[][];
  tolerance: number;
}

/** Runs a model on the reference pictures; logits must agree, grey levels are told. */
export async function selfTest(
  subject: Subject,
  folder: URL,
  manifest: Manifest,
  model: Model,
  onProgress?: (progress: Progress) => void,
): Promise<SelfTest> {
  const { logits: expected, tolerance } = await expectedOf(folder, manifest, model);
  const all = expected.flat();
  const range = Math.max(largestOf(all) + largestOf(all.map((x) => -x)), 1e-30); // of zeros it is 0
  const pictures: SelfTest["pictures"] = [];
  for (const [i, { picture, pixels: png }] of manifest.reference.entries()) {
    const pixels = await subject.pixels(await blob(folder, png), false);
    const resized = await subject.pixels(await blob(folder, picture), true);
    const logits = await subject.logits(pixels);
    const difference = largestOf(expected[i].map((x, k) => Math.abs(logits[k] - x))) / range;
    const greyLevels = largestOf(Array.from(pixels, (x, k) => Math.abs(resized[k] - x)));
    pictures.push({ picture, difference, agrees: difference <= tolerance, greyLevels });
    onProgress?.({ stage: "self-test", loaded: i + 1, total: expected.length });
  }
  const largest = largestOf(pictures.map(({ difference }) => difference));
  return { pictures, largest, tolerance, passed: pictures.every(({ agrees }) => agrees) };
}

async function expectedOf(folder: URL, manifest: Manifest, model: Model): Promise<Expected> {
  const found = (await downloadJson(folder, model.reference)) as Expected;
  const { reference, labels } = manifest;
  const fits =
    found?.logits?.length === reference.length &&
    reference.length > 0 &&
    found.logits.every((row) => row.length === labels.length && row.every(Number.isFinite)) &&
    found.tolerance >= 0;
  if (!fits)
    throw new ClassifierError(`${model.reference} does not fit this folder; export it again`);
  return found;
}

async function blob(folder: URL, name: string): Promise<Blob> {
  return new Blob([await download(folder, name)]);
}

/** NaN if there is one, which then agrees with nothing. */
function largestOf(values: number[]): number {
  return values.reduce((a, b) => Math.max(a, b), -Infinity);
}
