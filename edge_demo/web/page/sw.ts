/**
 * The service worker: whatever the page has used of a build is kept and works without a network.
 *
 * It answers with the headers that isolate the page, too, so that threads work on hosts that do not send them.
 */
export type {}; // a module of its own for the type checker

declare const self: ServiceWorkerGlobalScope & {
  /** Of build.js: what names the version, and all of its files with their sizes. */
  BUILD: { id: string; files: [path: string, bytes: number][] };
};
importScripts("build.js");

const SCOPE = self.registration.scope;
const PREFIX = `${SCOPE} `; // one origin may have several such folders
const NAME = PREFIX + self.BUILD.id;
const FILES = new Map(self.BUILD.files);
const PAGE = [...FILES.keys()].filter((path) => !path.includes("/") || path.startsWith("icons/"));
const ENGINE = /^(litert|tfjs)\//; // large files that no script of the page loads, so it cannot count them
const ISOLATING = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};
const beingKept = new Set<Promise<void>>();

const pathOf = (url: string) => new URL(url).pathname.slice(new URL(SCOPE).pathname.length);

/** From the network, never an older version that the browser still has. */
async function fetched(path: string): Promise<Response> {
  const answer = await fetch(path, { cache: "no-cache" });
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(ISOLATING)) headers.set(name, value);
  const { status, statusText } = answer;
  const body = answer.ok && ENGINE.test(path) ? counted(path, answer.body!) : answer.body;
  return new Response(body, { status, statusText, headers });
}

/** Tells the page how much of a file is there. */
function counted(path: string, body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const total = FILES.get(path)!;
  let loaded = 0;
  const count = new TransformStream<Uint8Array, Uint8Array>({
    async transform(chunk, controller) {
      controller.enqueue(chunk);
      loaded += chunk.length;
      for (const page of await self.clients.matchAll()) page.postMessage({ path, loaded, total });
    },
  });
  return body.pipeThrough(count);
}

async function kept(path: string): Promise<void> {
  const answer = await fetched(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  await (await caches.open(NAME)).put(path, answer);
}

const earlier = async () =>
  (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== NAME);

/** An update is complete before it is offered; the first version has a page waiting, which asks later. */
async function install(): Promise<void> {
  const names = await earlier();
  if (names.length === 0) return;
  const paths = new Set(PAGE);
  for (const name of names)
    for (const { url } of await (await caches.open(name)).keys())
      if (FILES.has(pathOf(url))) paths.add(pathOf(url));
  await Promise.all([...paths].map(kept));
}

async function activate(): Promise<void> {
  for (const name of await earlier()) await caches.delete(name);
  await self.clients.claim();
}

async function answer(path: string): Promise<Response> {
  const cache = await caches.open(NAME);
  const found = await cache.match(path);
  if (found) return found;
  const fresh = await fetched(path);
  if (fresh.ok) {
    const keeping = cache.put(path, fresh.clone());
    beingKept.add(keeping);
    void keeping.then(() => beingKept.delete(keeping));
  }
  return fresh;
}

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));

self.addEventListener("fetch", (event) => {
  const { url, method } = event.request;
  if (method !== "GET" || !url.startsWith(SCOPE)) return;
  const path = pathOf(url) || "index.html";
  if (FILES.has(path)) event.respondWith(answer(path));
});

/** The page whole, whatever it has used of it, and what is still on its way. */
async function complete(): Promise<void> {
  const cache = await caches.open(NAME);
  const missing = async (path: string) => (await cache.match(path)) ?? kept(path);
  await Promise.all([...PAGE.map(missing), ...beingKept]);
}

// "update": the page wants the new version. "kept?": it asks to be told when all that it used is kept.
self.addEventListener("message", (event) => {
  if (event.data === "update") void self.skipWaiting();
  if (event.data === "kept?")
    event.waitUntil(complete().then(() => event.source?.postMessage("kept")));
});
