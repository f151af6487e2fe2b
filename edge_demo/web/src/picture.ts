/** From a picture to its pixels, in a worker. */

import type { PreprocessSpec } from "./types";
import { ClassifierError } from "./errors";
import { toPixels, type Source } from "./preprocess";
import type { Pixels } from "./protocol";

/** As `edge_demo.images`: upright, the colours as the file has them, transparency laid on white. */
export const DECODING: ImageBitmapOptions = {
  imageOrientation: "from-image",
  colorSpaceConversion: "none",
  premultiplyAlpha: "none",
};

/** A picture as a bitmap. */
export async function decode(image: ImageBitmapSource): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(image, DECODING);
  } catch {
    const why =
      image instanceof Blob ? "damaged, or of a kind that this browser cannot read" : "not ready";
    throw new ClassifierError(`the picture is ${why}`);
  }
}

/** The method of `Methods`. */
export async function readPicture(
  image: Blob | ImageBitmap,
  spec?: PreprocessSpec,
): Promise<Pixels> {
  const began = performance.now();
  const bitmap = image instanceof Blob ? await decode(image) : image;
  let reading = performance.now() - began;
  try {
    const source = sourceOf(bitmap, (milliseconds) => (reading += milliseconds));
    const values = spec ? toPixels(source, spec) : wholePicture(source);
    return { values, pixels: reading, resize: performance.now() - began - reading };
  } finally {
    bitmap.close();
  }
}

function sourceOf(bitmap: ImageBitmap, took: (milliseconds: number) => void): Source {
  const { width, height } = bitmap;
  return {
    width,
    height,
    read({ left, top, right, bottom }) {
      const began = performance.now();
      const [columns, rows] = [right - left, bottom - top];
      const canvas = new OffscreenCanvas(columns, rows);
      const context = canvas.getContext("2d", { willReadFrequently: true })!;
      context.fillStyle = "white";
      context.fillRect(0, 0, columns, rows);
      context.drawImage(bitmap, -left, -top);
      const { data } = context.getImageData(0, 0, columns, rows);
      took(performance.now() - began);
      return data;
    },
  };
}

function wholePicture({ width, height, read }: Source): Uint8Array<ArrayBuffer> {
  const rgba = read({ left: 0, top: 0, right: width, bottom: height });
  return new Uint8Array(width * height * 3).map((_, i) => rgba[Math.floor(i / 3) * 4 + (i % 3)]);
}
