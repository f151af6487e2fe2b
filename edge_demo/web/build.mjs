/** Builds dist/: the module, its engines and the page, all that an exported web folder has beside the model. */
import { build } from "esbuild";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, extname, join } from "node:path";
import { gzipSync } from "node:zlib";

const DIST = "dist";
const require = createRequire(import.meta.url);
const inPackage = (name, folder) => join(dirname(require.resolve(`${name}/package.json`)), folder);

// The engines' own files. LiteRT's fourth variant is for WebNN, which is not used; TF.js' threads idle.
const LITERT = ["internal", "compat_internal", "threaded_internal"].map((v) => `litert_wasm_${v}`);
const ENGINE_FILES = {
  litert: LITERT.flatMap((name) => [`${name}.js`, `${name}.wasm`]).map((file) =>
    join(inPackage("@litertjs/core", "wasm"), file),
  ),
  tfjs: [join(inPackage("@tensorflow/tfjs-backend-wasm", "dist"), "tfjs-backend-wasm-simd.wasm")],
};
const COMMON = { bundle: true, minify: true, target: "es2022", legalComments: "linked" };

await rm(DIST, { recursive: true, force: true });
await mkdir(DIST);

// The page and the service worker; the page's `./classifier.js` is the file that users import too.
await build({
  ...COMMON,
  entryPoints: ["src/classifier.ts", "page/app.ts", "page/app.css"],
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
  filter: (path) => basename(path) !== "style" && ![".ts", ".css", ".py"].includes(extname(path)),
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
const sizes = new Map();
for (const entry of await readdir(DIST, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const path = join(entry.parentPath, entry.name);
  const content = await readFile(path);
  sizes.set(path, path.endsWith(".gz") ? content.length : gzipSync(content, { level: 9 }).length);
}
const tell = (bytes, what) => console.log(`${(bytes / 1e6).toFixed(3).padStart(8)} MB  ${what}`);
for (const [path, bytes] of sizes) tell(bytes, path);
// A browser takes one of LiteRT's variants; the threaded one is the largest.
const opened = [...sizes].filter(([path]) => !/tfjs|compat|wasm_internal|d\.ts/.test(path));
tell(
  opened.reduce((sum, [, bytes]) => sum + bytes, 0),
  "page and LiteRT with threads, all gzipped",
);
