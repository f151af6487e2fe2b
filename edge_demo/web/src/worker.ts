/** The worker's side, the same for every engine. */

import type { Backend } from "./types";
import { ClassifierError } from "./errors";
import { readPicture } from "./picture";
import { normalise } from "./preprocess";
import type { Files, Methods, Outputs, Reply, Request } from "./protocol";

/** A library that runs models. */
export interface Engine {
  /** How many threads it has in the end. */
  threads: number;
  load(main: string, files: Files): Promise<RunModel>;
}

/** An input float32 of a shape [1, height, width, 3] to the outputs by their names. */
export type RunModel = (input: Float32Array, shape: number[]) => Promise<Outputs>;

/** Answers the page's requests, one after the other: an engine has one memory. */
export function serve(
  name: string,
  startEngine: (backend: Backend, threads: number) => Promise<Engine>,
): void {
  let engine: Engine;
  let runModel: RunModel;
  const methods: Methods = {
    async start(backend, threads) {
      if (backend === "webgpu" && !(await navigator.gpu?.requestAdapter())) {
        throw new ClassifierError("this browser has no graphics device for it");
      }
      engine = await told(`${name} cannot be started`, startEngine(backend, threads));
      return engine.threads;
    },
    async load(main, files) {
      runModel = await told(`${main} cannot be used`, engine.load(main, files));
    },
    pixels: readPicture,
    async run(pixels, spec) {
      const began = performance.now();
      const outputs = await runModel(normalise(pixels, spec), [1, spec.height, spec.width, 3]);
      return { outputs, milliseconds: performance.now() - began };
    },
  };
  let last: Promise<void> = Promise.resolve();
  addEventListener("message", ({ data }: MessageEvent<Request>) => {
    last = last.then(() => answer(methods, data));
  });
}

async function answer(methods: Methods, { id, method, args }: Request): Promise<void> {
  const reply = (message: Reply) => postMessage(message);
  try {
    const call = methods[method] as (...args: unknown[]) => Promise<unknown>;
    reply({ id, value: await call(...args) });
  } catch (error) {
    reply({ id, error: words(error) });
  }
}

/** A library's result; its failure in a sentence that starts so. */
async function told<T>(sentence: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw new ClassifierError(`${sentence}: ${words(error)}`);
  }
}

/** One line, whatever was thrown: Emscripten throws numbers, TF.js objects. */
function words(error: unknown): string {
  const message = (error as Error | undefined)?.message ?? String(error);
  return message.split("\n")[0];
}
