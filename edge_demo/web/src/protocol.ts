/**
 * Between the page and the worker that decodes, resizes and runs the model.
 *
 * One worker for each classifier: the page stays smooth, two do not share an engine's one memory, and
 * to end the worker frees all of it, which neither library does by itself.
 */

import type { Backend, PreprocessSpec } from "./types";

/** An output of a model, batch included. */
export interface Output {
  values: Float32Array<ArrayBuffer>;
  shape: number[];
}

export type Outputs = Record<string, Output>;

/** A model's files by their names. */
export type Files = Record<string, Uint8Array<ArrayBuffer>>;

/** Grey levels RGB [height, width, 3], and the milliseconds that they took. */
export interface Pixels {
  values: Uint8Array<ArrayBuffer>;
  pixels: number;
  resize: number;
}

/** What a worker does. */
export interface Methods {
  /** Loads the engine and says how many threads it has. */
  start(backend: Backend, threads: number): Promise<number>;
  /** Loads a model; `main` is the one of its files that tells of the others. */
  load(main: string, files: Files): Promise<void>;
  /** A picture's pixels, resized as `spec` says if there is one. */
  pixels(image: Blob | ImageBitmap, spec?: PreprocessSpec): Promise<Pixels>;
  /** Runs the model on grey levels. */
  run(
    pixels: Uint8Array,
    spec: PreprocessSpec,
  ): Promise<{ outputs: Outputs; milliseconds: number }>;
}

export interface Request {
  id: number;
  method: keyof Methods;
  args: unknown[];
}

export type Reply = { id: number; value: unknown } | { id: number; error: string };
