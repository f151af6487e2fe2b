/** Files of an exported folder, whole or with one sentence on what is wrong with them. */

import { ClassifierError } from "./errors";

/** The folder's URL, with the slash that relative names need. */
export function folderOf(url: string | URL): URL {
  const folder = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!folder.pathname.endsWith("/")) folder.pathname += "/";
  return folder;
}

/** A file's bytes; `count` hears how many came. */
export async function download(
  folder: URL,
  name: string,
  { signal, count }: { signal?: AbortSignal; count?: (bytes: number) => void } = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body(await open(folder, name, signal), name)) {
    chunks.push(chunk);
    length += chunk.length;
    count?.(chunk.length);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** A JSON file; a host that answers a missing one with a page gets a sentence too. */
export async function downloadJson(
  folder: URL,
  name: string,
  signal?: AbortSignal,
): Promise<unknown> {
  const bytes = await download(folder, name, { signal });
  return json(bytes, name);
}

export function json(bytes: Uint8Array, name: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new ClassifierError(
      `${name} is not JSON; is this the URL of a folder that \`tfvit convert --format web\` wrote?`,
    );
  }
}

async function open(folder: URL, name: string, signal?: AbortSignal): Promise<Response> {
  const url = new URL(name, folder);
  // The file says which others to load: it may come from anywhere, they may not.
  if (!url.href.startsWith(folder.href)) throw new ClassifierError(`${name} is not in this folder`);
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    throw failed(error, `${name} cannot be loaded: the server does not answer`);
  }
  if (response.ok) return response;
  throw new ClassifierError(`${name} cannot be loaded: the server answers ${response.status}`);
}

async function* body(response: Response, name: string): AsyncGenerator<Uint8Array> {
  const reader = response.body!.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw failed(error, `${name} cannot be loaded: the connection broke off`);
  }
}

/** What the user stopped is no fault of the server. */
function failed(error: unknown, sentence: string): unknown {
  const stopped = error instanceof DOMException && error.name === "AbortError";
  return stopped ? error : new ClassifierError(sentence);
}
