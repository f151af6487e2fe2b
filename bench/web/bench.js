// Engines behind two functions that web_latency.py calls: logits of all images, times of the first.
// Each engine runs in a worker of its own, and its time is taken there: from input values to output values.
import { createClassifier } from "./classifier.js";

const CHANNELS = 3;
const runs = new Map(); // name -> image number to [logits, milliseconds]
const images = {}; // layout -> { shape, arrays }

globalThis.bench = {
  /** size, count: of pixels.bin, uint8 [count, size, size, 3], and nchw.bin, float32 [count, 3, size, size]. */
  async load(size, count) {
    const length = CHANNELS * size * size;
    const pixels = new Uint8Array(await (await fetch("pixels.bin")).arrayBuffer());
    const nchw = new Float32Array(await (await fetch("nchw.bin")).arrayBuffer());
    const part = (array, i) => array.subarray(i * length, (i + 1) * length);
    images.pixels = Array.from({ length: count }, (_, i) => picture(part(pixels, i), size));
    images.nchw = Array.from({ length: count }, (_, i) => part(nchw, i));
    images.shape = [1, CHANNELS, size, size];
  },

  /** engine: "tfvit", the module itself, or "onnx". model: of the manifest, or a file. Returns its threads. */
  async start(name, engine, model, threads) {
    return ENGINES[engine](name, model, threads);
  },

  async logits(name) {
    const found = [];
    for (const i of images.pixels.keys()) found.push(Array.from((await runs.get(name)(i))[0]));
    return found;
  },

  async time(name, uncounted, counted) {
    const milliseconds = [];
    for (let i = 0; i < uncounted + counted; i++) milliseconds.push((await runs.get(name)(0))[1]);
    return { milliseconds: milliseconds.slice(uncounted) };
  },
};

const ENGINES = {
  async tfvit(name, model, threads) {
    const classifier = await createClassifier(".", { model, threads });
    runs.set(name, async (i) => {
      const { logits, milliseconds } = await classifier.classify(images.pixels[i]);
      return [logits, milliseconds.inference];
    });
    return classifier.threads;
  },

  async onnx(name, model, threads) {
    const worker = new Worker("onnx.js", { type: "module" });
    const ask = (message) =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(Error(data.error)) : resolve(data));
        worker.onerror = () => reject(Error("onnx.js cannot be loaded"));
        worker.postMessage(message);
      });
    await ask({ model, threads });
    runs.set(name, async (i) => {
      const { logits, milliseconds } = await ask({ values: images.nchw[i], shape: images.shape });
      return [logits, milliseconds];
    });
    return threads;
  },
};

function picture(rgb, size) {
  const data = new ImageData(size, size);
  data.data.fill(255);
  for (let i = 0; i < size * size; i++) data.data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  return data;
}
