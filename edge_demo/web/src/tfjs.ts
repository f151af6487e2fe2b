/** The worker of TF.js. */

import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import "@tensorflow/tfjs-backend-webgl";
import "@tensorflow/tfjs-backend-webgpu";
import { loadGraphModel } from "@tensorflow/tfjs-converter";
import { dispose, env, io, setBackend, tensor, type Tensor } from "@tensorflow/tfjs-core";
import { json } from "./download";
import { serve } from "./worker";

serve("TF.js", async (backend) => {
  setWasmPaths(new URL(".", location.href).href);
  // The threaded build of 4.22 computes on one thread all the same, and lets others idle.
  env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  if (!(await setBackend(backend))) throw new Error(`its ${backend} backend failed`);
  return {
    threads: 1,
    async load(main, files) {
      const model = await loadGraphModel({ load: () => artifacts(main, files) });
      const named = model.modelSignature as { outputs: Record<string, { name: string }> };
      const names = Object.keys(named.outputs);
      const nodes = names.map((name) => named.outputs[name].name);
      return async (values, shape) => {
        const input = tensor(values, shape);
        const outputs = model.execute(input, nodes) as Tensor | Tensor[];
        const tensors = Array.isArray(outputs) ? outputs : [outputs];
        try {
          const entries = tensors.map(async (output, i) => [
            names[i],
            { values: await output.data<"float32">(), shape: output.shape },
          ]);
          return Object.fromEntries(await Promise.all(entries));
        } finally {
          dispose([input, ...tensors]);
        }
      };
    },
  };
});

/** What `loadGraphModel` would have loaded itself. */
function artifacts(
  main: string,
  files: Record<string, Uint8Array<ArrayBuffer>>,
): Promise<io.ModelArtifacts> {
  const model = json(files[main], main) as io.ModelJSON;
  return io.getModelArtifactsForJSON(model, async (manifest) => {
    const shards = manifest.flatMap(({ paths }) => paths.map((path) => files[path].buffer));
    return [manifest.flatMap(({ weights }) => weights), shards];
  });
}
