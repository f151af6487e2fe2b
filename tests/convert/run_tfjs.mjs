// Runs TF.js models in Node: node run_tfjs.mjs NODE_MODULES BACKEND PIXELS MODEL_JSON...
// PIXELS: a file of float32 [n, h, w, 3]. Prints {model: {output: [values of all n pictures]}}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const [modules, backend, pixels, ...models] = process.argv.slice(2);
const require = createRequire(join(modules, "none.js"));
const tf = require("@tensorflow/tfjs-core");
const { loadGraphModel } = require("@tensorflow/tfjs-converter");
require("@tensorflow/tfjs-backend-cpu");
const wasm = require("@tensorflow/tfjs-backend-wasm");
wasm.setWasmPaths(join(modules, "@tensorflow/tfjs-backend-wasm/dist/"));
wasm.setThreadsCount(1);
await tf.setBackend(backend);
await tf.ready();

const bytes = (file) => new Uint8Array(readFileSync(file)).buffer;
const found = {};
for (const path of models) {
  const load = async () =>
    tf.io.getModelArtifactsForJSON(JSON.parse(readFileSync(path, "utf8")), async (manifest) => [
      manifest.flatMap(({ weights }) => weights),
      manifest.flatMap(({ paths }) => paths.map((shard) => bytes(join(dirname(path), shard)))),
    ]);
  const model = await loadGraphModel({ load });
  const values = new Float32Array(bytes(pixels));
  const shape = model.inputs[0].shape;
  const size = shape.reduce((a, b) => a * b);
  const { outputs } = model.modelSignature;
  const names = Object.keys(outputs);
  const nodes = names.map((name) => outputs[name].name);
  found[path] = Object.fromEntries(names.map((name) => [name, []]));
  for (let at = 0; at < values.length; at += size) {
    const told = model.execute(tf.tensor(values.subarray(at, at + size), shape), nodes);
    [told].flat().forEach((tensor, i) => found[path][names[i]].push(...tensor.dataSync()));
  }
}
process.stdout.write(JSON.stringify(found));
