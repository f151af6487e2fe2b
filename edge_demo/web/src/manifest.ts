/** classifier.json, checked: a page may meet an older export than itself, or something else altogether. */

import type { Backend, Manifest, Model } from "./types";
import { downloadJson } from "./download";
import { ClassifierError } from "./errors";
import { SCORES } from "./scores";

const NAME = "classifier.json";
const FORMAT = 1;

/** Engine -> its backends, the default first. */
export const BACKENDS: Record<Model["engine"], Backend[]> = {
  litert: ["wasm", "webgpu"],
  tfjs: ["wasm", "webgl", "webgpu"],
};

type Check = (value: any) => boolean;
const text: Check = (value) => typeof value === "string";
const count: Check = (value) => Number.isInteger(value) && value > 0;
const listOf = (check: Check) => (value: unknown) => Array.isArray(value) && value.every(check);
const three: Check = (value) => listOf(Number.isFinite)(value) && value.length === 3;
const among = (values: object) => (value: unknown) => Object.keys(values).includes(value as string);
const fields = (checks: Record<string, Check>) => (value: any) =>
  value instanceof Object && Object.entries(checks).every(([name, check]) => check(value[name]));

/** Field -> what it must be. */
const FIELDS: Record<Exclude<keyof Manifest, "format">, Check> = {
  name: text,
  labels: (value) => listOf(text)(value) && value.length > 0,
  scores: among(SCORES),
  preprocess: fields({
    height: count,
    width: count,
    resize: among({ squash: 0, crop: 0 }),
    crop_fraction: (value) => value > 0 && value <= 1,
    interpolation: among({ bilinear: 0, bicubic: 0 }),
    mean: three,
    std: three,
  }),
  models: listOf(
    fields({
      name: text,
      engine: among(BACKENDS),
      file: text,
      bytes: count,
      outputs: (value) => listOf(text)(value) && value[0] === "logits",
      reference: text,
    }),
  ),
  default: text,
  reference: listOf(fields({ picture: text, pixels: text })),
  provenance: (value) => value instanceof Object,
};

/** The manifest of a folder. */
export async function readManifest(folder: URL, signal?: AbortSignal): Promise<Manifest> {
  const found = (await downloadJson(folder, NAME, signal)) as Manifest;
  if (found?.format !== FORMAT) {
    throw new ClassifierError(
      `${NAME} is of format ${found?.format}, this module reads ${FORMAT}: use the classifier.js beside it`,
    );
  }
  for (const [name, check] of Object.entries(FIELDS)) {
    if (!check(found[name as keyof Manifest])) {
      throw new ClassifierError(`${NAME} is damaged (${name}); export it again`);
    }
  }
  return found;
}

/** The model of that name, or the default one. */
export function chooseModel(manifest: Manifest, name = manifest.default): Model {
  const model = manifest.models.find((candidate) => candidate.name === name);
  if (model) return model;
  const names = manifest.models.map((candidate) => candidate.name).join(", ");
  throw new ClassifierError(`there is no model ${name}; this folder has ${names || "none"}`);
}

/** The backend itself, if the model's engine has it; its default one if none is asked for. */
export function chooseBackend({ engine }: Model, backend = BACKENDS[engine][0]): Backend {
  if (BACKENDS[engine].includes(backend)) return backend;
  throw new ClassifierError(`${engine} has no ${backend}; it has ${BACKENDS[engine].join(", ")}`);
}
