// onnxruntime-web in a worker, as its documentation says: https://onnxruntime.ai/docs/tutorials/web
import * as ort from "./onnxruntime/ort.wasm.min.mjs";

const FOLDER = new URL("./onnxruntime/", import.meta.url).href;
let session;

onmessage = async ({ data }) => {
  try {
    postMessage(data.model ? await load(data) : await run(data));
  } catch (error) {
    postMessage({ error: error.message });
  }
};

async function load({ model, threads }) {
  ort.env.wasm.wasmPaths = FOLDER;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return {};
}

async function run({ values, shape }) {
  const began = performance.now();
  const found = await session.run({ image: new ort.Tensor("float32", values, shape) });
  const logits = found.logits.data;
  return { milliseconds: performance.now() - began, logits };
}
