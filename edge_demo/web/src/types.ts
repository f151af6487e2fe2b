/** What goes into the module and comes out of it. */

/** How a picture of any size becomes a model's input; `edge_demo.preprocess.PreprocessSpec` in JSON. */
export interface PreprocessSpec {
  height: number;
  width: number;
  resize: "squash" | "crop";
  crop_fraction: number;
  interpolation: "bilinear" | "bicubic";
  mean: [number, number, number];
  std: [number, number, number];
}

/** One model of a folder. */
export interface Model {
  name: string;
  engine: "litert" | "tfjs";
  /** Relative to the folder: a .tflite, or the model.json of a TF.js graph model. */
  file: string;
  /** Of the whole download. */
  bytes: number;
  /** In the model's order; the first is "logits", others may be "features" and "attention". */
  outputs: string[];
  /** Expected logits of the reference pictures. */
  reference: string;
}

/** classifier.json, which `tfvit convert --format web` writes. */
export interface Manifest {
  format: 1;
  name: string;
  labels: string[];
  scores: "softmax" | "sigmoid";
  preprocess: PreprocessSpec;
  models: Model[];
  default: string;
  reference: { picture: string; pixels: string }[];
  provenance: Record<string, unknown>;
}

export type Backend = "wasm" | "webgl" | "webgpu";

/** How far it is: bytes of the model, or pictures of the self-test. */
export interface Progress {
  stage: "model" | "self-test";
  loaded: number;
  total: number;
}

export interface Options {
  /** A name of the manifest; its default one if none is given. */
  model?: string;
  /** LiteRT has wasm (the default) and webgpu, TF.js wasm, webgl and webgpu. */
  backend?: Backend;
  /** Of LiteRT's wasm. Half of the cores, at most 4, where the page is cross-origin isolated; else 1. */
  threads?: number;
  onProgress?: (progress: Progress) => void;
  /** Stops the loading; the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** Whatever `createImageBitmap` takes: a file, an element, pixels. */
export type Picture = ImageBitmapSource;

export interface Classification {
  /** Best first. */
  results: { label: string; score: number }[];
  logits: Float32Array;
  /** The share of each patch in the decision, row by row; a sum of 1. */
  attention?: { values: Float32Array; rows: number; columns: number };
  /** What the model's head read. */
  features?: Float32Array;
  /** pixels: decoding and reading the picture. */
  milliseconds: { pixels: number; resize: number; inference: number };
}

export interface SelfTest {
  /**
   * difference: of the logits from the expected ones, as a share of the range of all expected ones.
   * greyLevels: of the picture, decoded and resized here, from the expected pixels.
   */
  pictures: { picture: string; difference: number; agrees: boolean; greyLevels: number }[];
  /** The largest difference, and what it may be. */
  largest: number;
  tolerance: number;
  passed: boolean;
}

export interface Classifier {
  readonly manifest: Manifest;
  readonly model: Model;
  readonly backend: Backend;
  readonly threads: number;
  /** Why another backend than the one asked for is used. */
  readonly fallback?: string;
  /** top: how many results, all labels if not given. */
  classify(image: Picture, options?: { top?: number }): Promise<Classification>;
  /** Runs the reference pictures of the export and compares. */
  selfTest(onProgress?: (progress: Progress) => void): Promise<SelfTest>;
  /** Frees all memory; what was still running fails. */
  dispose(): void;
}
