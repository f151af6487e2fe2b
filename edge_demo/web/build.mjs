/** Builds dist/: the module, its engines and the page, all that an exported web folder has beside the model. */
import { build } from "esbuild";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, extname, join } from "node:path";
import { gzipSync } from "node:zlib";

const DIST = "dist";
const require = createRequire(import.meta.url);
const inPackage = (name, folder) => join(dirname(require.resolve(`${name}/package.json`)), folder);

// The engines' own files. LiteRT's fourth variant, for WebNN, is not used.
const LITERT = ["internal", "compat_internal", "threaded_internal"].map((v) => `litert_wasm_${v}`);
const ENGINE_FILES = {
  litert: LITERT.flatMap((name) => [`${name}.js`, `${name}.wasm`]).map((file) =>
    join(inPackage("@litertjs/core", "wasm"), file),
  ),
  tfjs: ["", "-simd", "-threaded-simd"].map((variant) =>
    join(inPackage("@tensorflow/tfjs-backend-wasm", "dist"), `tfjs-backend-wasm${variant}.wasm`),
  ),
};
const COMMON = { bundle: true, minify: true, target: "es2022", legalComments: "none" };

await rm(DIST, { recursive: true, force: true });
await mkdir(DIST);

// The page and the service worker; the page's `./classifier.js` is the file that users import too.
await build({
  ...COMMON,
  entryPoints: ["src/classifier.ts", "page/app.ts"],
  entryNames: "[name]",
  outdir: DIST,
  format: "esm",
  external: ["./classifier.js"],
});
// Classic scripts: a service worker, and workers whose engines call importScripts.
await build({ ...COMMON, entryPoints: ["page/sw.ts"], outdir: DIST, format: "iife" });
await build({
  ...COMMON,
  entryPoints: { "litert/worker": "src/litert.ts", "tfjs/worker": "src/tfjs.ts" },
  outdir: DIST,
  format: "iife",
});
await cp("page", DIST, {
  recursive: true,
  filter: (path) => ![".ts", ".py"].includes(extname(path)),
});
for (const [engine, files] of Object.entries(ENGINE_FILES)) {
  for (const file of files) {
    const content = await readFile(file);
    const target = join(DIST, engine, basename(file));
    if (file.endsWith(".wasm")) await writeFile(`${target}.gz`, gzipSync(content, { level: 9 }));
    else await writeFile(target, content);
  }
}

// What travels, as a host that compresses sends it.
for (const entry of await readdir(DIST, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const path = join(entry.parentPath, entry.name);
  const content = await readFile(path);
  const size = path.endsWith(".gz") ? content.length : gzipSync(content, { level: 9 }).length;
  console.log(`${(size / 1024).toFixed(1).padStart(9)} kB gzipped  ${path}`);
}
