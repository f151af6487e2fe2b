// The browser's preprocessing in Node: `cases.json` and pictures as RGBA bytes of a folder in, and
// for every spec and picture `SPEC-PICTURE.bin` out, what a model sees.
import { readFileSync, writeFileSync } from "node:fs";
import { toPixels } from "../edge_demo/web/dist/classifier.js";

const folder = process.argv[2];
const { specs, pictures } = JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"));
for (const [name, { width, height }] of Object.entries(pictures)) {
  const rgba = readFileSync(`${folder}/${name}.rgba`);
  const read = ({ left, top, right, bottom }) => {
    const rows = [];
    for (let y = top; y < bottom; y++) {
      rows.push(rgba.subarray((y * width + left) * 4, (y * width + right) * 4));
    }
    return Buffer.concat(rows);
  };
  specs.forEach((spec, i) => {
    writeFileSync(`${folder}/${i}-${name}.bin`, toPixels({ width, height, read }, spec));
  });
}
