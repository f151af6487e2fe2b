/** The worker of LiteRT.js; a classic one, since the library loads its script with importScripts. */

import { Environment, loadLiteRt, supportsFeature, Tensor } from "@litertjs/core";
import { serve } from "./worker";

const FOLDER = new URL(".", location.href).href;

declare global {
  // What Emscripten reads. Its threads start from its own script, not from this one.
  var Module: {
    locateFile(name: string): string;
    mainScriptUrlOrBlob: string;
    printErr(line: string): void;
  };
}

serve("LiteRT", async (backend, wanted) => {
  const threads = wanted > 1 && (await supportsFeature("relaxedSimd")) ? wanted : 1;
  globalThis.Module = {
    locateFile: (name) => FOLDER + name,
    mainScriptUrlOrBlob: `${FOLDER}litert_wasm_threaded_internal.js`,
    printErr: (line) => (line.startsWith("ERROR") ? console.warn(line) : console.debug(line)),
  };
  // The library asks for a graphics device whether or not it is to use one.
  if (backend === "wasm") Environment.create = async () => new Environment({ webGpuDevice: null });
  const litert = await loadLiteRt(FOLDER, { threads: threads > 1 });
  return {
    threads,
    async load(main, files) {
      const model = await litert.loadAndCompile(files[main], {
        accelerator: backend === "webgpu" ? "webgpu" : "wasm",
        cpuOptions: { numThreads: threads },
        gpuOptions: { precision: "fp32" }, // in half precision logits are not the exported model's
      });
      const [{ name }] = model.getInputDetails();
      return async (values, shape) => {
        const input = new Tensor(values, shape);
        const outputs = await model.run({ [name]: input });
        try {
          const entries = Object.entries(outputs).map(async ([output, tensor]) => [
            output,
            {
              values: (await tensor.data()) as Float32Array<ArrayBuffer>,
              shape: Array.from(tensor.type.layout.dimensions),
            },
          ]);
          return Object.fromEntries(await Promise.all(entries));
        } finally {
          for (const tensor of [input, ...Object.values(outputs)]) tensor.delete();
        }
      };
    },
  };
});
