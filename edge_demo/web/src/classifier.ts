/** What users of the module see. */

import { connect, type Connection } from "./connection";
import { download, folderOf, json } from "./download";
import { ClassifierError } from "./errors";
import { chooseBackend, chooseModel, readManifest } from "./manifest";
import { decode } from "./picture";
import { toPixels } from "./preprocess";
import type { Files, Outputs, Pixels } from "./protocol";
import { ranked, SCORES } from "./scores";
import { selfTest } from "./self_test";
import type { Backend, Classification, Classifier, Model, Options, Picture } from "./types";

export type * from "./types";
export { ClassifierError, toPixels };

const MOST_THREADS = 4; // more are no faster on a phone, whose other cores are slow ones

/**
 * Loads a model of a folder that `tfvit convert --format web` wrote.
 *
 * url: of the folder, relative to the page. Rejects with a ClassifierError that says what is wrong.
 */
export async function createClassifier(
  url: string | URL,
  options: Options = {},
): Promise<Classifier> {
  const folder = folderOf(url);
  const threads = threadsOf(options.threads);
  const manifest = await readManifest(folder, options.signal);
  const model = chooseModel(manifest, options.model);
  const backend = chooseBackend(model, options.backend);
  const files = loadFiles(folder, model, options);
  const on = (backend: Backend) => {
    const engine = { manifest, model, backend, threads };
    return start(folder, engine, files, options.signal);
  };
  if (backend !== "webgpu") return on(backend);
  try {
    return await tested(await on(backend), options);
  } catch (error) {
    options.signal?.throwIfAborted();
    // Some adapters compute something else and say nothing; the processor is right everywhere.
    const why = `WebGPU is not used: ${(error as Error).message}`;
    return Object.assign(await on("wasm"), { fallback: why });
  }
}

/** The classifier itself if its self-test passes. */
async function tested(classifier: Classifier, { onProgress }: Options): Promise<Classifier> {
  try {
    const { passed, largest } = await classifier.selfTest(onProgress);
    if (passed) return classifier;
    const percent = (100 * largest).toPrecision(2);
    throw new ClassifierError(`its logits are ${percent} % of their range from the expected ones`);
  } catch (error) {
    classifier.dispose();
    throw error;
  }
}

/** A model's files by their names, as its manifest says how large they are together. */
async function loadFiles(
  folder: URL,
  { engine, file, bytes }: Model,
  { onProgress, signal }: Options,
): Promise<Files> {
  let loaded = 0;
  const count = (length: number) => {
    loaded += length;
    onProgress?.({ stage: "model", loaded, total: bytes });
  };
  const load = (name: string) => download(folder, name, { signal, count });
  const files: Files = { [file]: await load(file) };
  if (engine === "tfjs") {
    const shards = shardsOf(json(files[file], file), file);
    const contents = await Promise.all(shards.map((shard) => load(file.replace(/[^/]*$/, shard))));
    shards.forEach((shard, i) => (files[shard] = contents[i]));
  }
  if (loaded === bytes) return files;
  throw new ClassifierError(
    `${file} has ${loaded} bytes, not ${bytes}: it is damaged or another file`,
  );
}

function shardsOf(model: unknown, file: string): string[] {
  const groups = (model as { weightsManifest?: { paths: string[] }[] } | null)?.weightsManifest;
  if (groups) return groups.flatMap(({ paths }) => paths);
  throw new ClassifierError(`${file} is no TF.js model`);
}

/** What a classifier says of itself. */
type Facts = Pick<Classifier, "manifest" | "model" | "backend" | "threads">;

async function start(
  folder: URL,
  facts: Facts,
  files: Promise<Files>,
  signal?: AbortSignal,
): Promise<Classifier> {
  const worker = connect(facts.model.engine);
  const stop = () => worker.close("the loading was stopped");
  signal?.addEventListener("abort", stop);
  try {
    const started = worker.call("start", [facts.backend, facts.threads]);
    const [threads, contents] = await Promise.all([started, files]);
    await worker.call("load", [facts.model.file, contents]);
    return classifier(worker, folder, { ...facts, threads });
  } catch (error) {
    stop();
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** As many as asked for where the browser allows threads, which is in isolated pages. */
function threadsOf(wanted?: number): number {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0)) {
    throw new ClassifierError(`threads must be a positive whole number, not ${wanted}`);
  }
  if (!globalThis.crossOriginIsolated) return 1;
  const half = Math.floor(navigator.hardwareConcurrency / 2);
  return wanted ?? Math.min(Math.max(half, 1), MOST_THREADS);
}

function classifier(worker: Connection, folder: URL, facts: Facts): Classifier {
  const { manifest, model } = facts;
  const { labels, preprocess } = manifest;

  async function pixelsOf(image: Picture): Promise<Pixels> {
    const began = performance.now();
    // Files are decoded in the worker, elements exist here only; a bitmap stays its owner's.
    const taken = image instanceof Blob ? image : await decode(image);
    const here = performance.now() - began;
    const transfer = taken instanceof Blob ? [] : [taken];
    const found = await worker.call("pixels", [taken, preprocess], transfer);
    return { ...found, pixels: found.pixels + here };
  }

  async function run(pixels: Uint8Array): Promise<{ outputs: Outputs; milliseconds: number }> {
    const found = await worker.call("run", [pixels, preprocess]);
    if (found.outputs.logits?.values.length === labels.length) return found;
    throw new ClassifierError(`${model.file} has not one logit for each label; export it again`);
  }

  return {
    ...facts,
    async classify(image, { top = labels.length } = {}): Promise<Classification> {
      const { values, pixels, resize } = await pixelsOf(image);
      const { outputs, milliseconds } = await run(values);
      const { logits, features, attention } = outputs;
      const scores = SCORES[manifest.scores](logits.values);
      return {
        results: ranked(scores, labels, top),
        logits: logits.values,
        ...(features && { features: features.values }),
        ...(attention && { attention: shares(attention.values, attention.shape) }),
        milliseconds: { pixels, resize, inference: milliseconds },
      };
    },
    selfTest(onProgress) {
      const subject = {
        async pixels(picture: Blob, resized: boolean) {
          const found = await worker.call("pixels", [picture, resized ? preprocess : undefined]);
          return found.values;
        },
        async logits(pixels: Uint8Array) {
          return (await run(pixels)).outputs.logits.values;
        },
      };
      return selfTest(subject, folder, manifest, model, onProgress);
    },
    dispose: () => worker.close("the classifier was disposed of"),
  };
}

/** An attention map [1, rows, columns] with a sum of 1; a quantized model leaves the division to its reader. */
function shares(values: Float32Array, shape: number[]): Classification["attention"] {
  const [rows, columns] = shape.slice(-2);
  const sum = values.reduce((a, b) => a + b, 0);
  return { values: values.map((value) => value / (sum > 0 ? sum : 1)), rows, columns };
}
