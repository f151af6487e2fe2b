/** Which model runs where: engine, weights, backend and threads, as the manifest and the browser allow. */
import { BACKENDS } from "../src/manifest";
import type { Backend, Classifier, Manifest, Model, Options } from "./classifier.js";
import { $, made, megabytes, tell } from "./dom";

const ENGINES: Record<Model["engine"], string> = { litert: "LiteRT.js", tfjs: "TF.js" };
const TITLES: Record<Backend, string> = { wasm: "wasm", webgl: "WebGL", webgpu: "WebGPU" };
const THREADS = 8; // more than that only wait for each other

const [engine, weights, backend, threads] = ["engine", "weights", "backend", "threads"].map((id) =>
  $<HTMLSelectElement>(id),
);

/** Offers what there is; `choose` is called with what the user wants. */
export function bindSettings(manifest: Manifest, choose: (options: Options) => void): void {
  engine.onchange = () => {
    const models = manifest.models.filter((model) => model.engine === engine.value);
    const usual = models.find(({ name }) => name === manifest.default) ?? models[0];
    choose({ model: usual.name });
  };
  weights.onchange = () => choose({ model: weights.value, backend: backend.value as Backend });
  backend.onchange = () => choose({ model: weights.value, backend: backend.value as Backend });
  threads.onchange = () => choose({ model: weights.value, threads: Number(threads.value) });
}

/** Shows what runs. */
export function showSettings({ manifest, model, ...running }: Classifier): void {
  const engines = [...new Set(manifest.models.map(({ engine }) => engine))];
  const models = manifest.models.filter(({ engine }) => engine === model.engine);
  const usable = BACKENDS[model.engine].filter((name) => name !== "webgpu" || "gpu" in navigator);
  const isWasm = running.backend === "wasm";
  const most = crossOriginIsolated && isWasm ? Math.min(navigator.hardwareConcurrency, THREADS) : 1;
  const counts = Array.from({ length: Math.max(most, running.threads) }, (_, i) => `${i + 1}`);
  offer(
    engine,
    engines.map((name) => [name, ENGINES[name]]),
    model.engine,
  );
  offer(
    weights,
    models.map(({ name, bytes }) => [name, `${short(name)}, ${megabytes(bytes)}`]),
    model.name,
  );
  offer(
    backend,
    usable.map((name) => [name, TITLES[name]]),
    running.backend,
  );
  offer(
    threads,
    counts.map((count) => [count, count]),
    String(running.threads),
  );
  tell($("fallback"), running.fallback);
  const workers = `${running.threads} ${running.threads > 1 ? "threads" : "thread"}`;
  $("running").textContent =
    `${short(model.name)} in ${ENGINES[model.engine]}, ${TITLES[running.backend]}${isWasm ? `, ${workers}` : ""}`;
}

/** Without the engine's name, which stands elsewhere. */
const short = (name: string) => name.replace(/^tfjs-/, "");

function offer(select: HTMLSelectElement, options: [string, string][], chosen: string): void {
  select.replaceChildren(...options.map(([value, text]) => made("option", { value }, text)));
  select.value = chosen;
  select.disabled = options.length < 2;
}
