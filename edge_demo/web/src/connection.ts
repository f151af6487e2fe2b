/** The page's side of a worker. */

import { ClassifierError } from "./errors";
import type { Methods, Reply, Request } from "./protocol";

export interface Connection {
  call<M extends keyof Methods>(
    method: M,
    args: Parameters<Methods[M]>,
    transfer?: Transferable[],
  ): ReturnType<Methods[M]>;
  /** Ends the worker; what was still running fails with this sentence, and what is asked later. */
  close(why: string): void;
}

/** Starts the worker of an engine, which lies beside this script. */
export function connect(engine: "litert" | "tfjs"): Connection {
  // Spelled out: bundlers look for this expression.
  const worker =
    engine === "litert"
      ? new Worker(new URL("./litert/worker.js", import.meta.url))
      : new Worker(new URL("./tfjs/worker.js", import.meta.url));
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let ended: ClassifierError | undefined;
  let calls = 0;

  function close(why: string): void {
    ended ??= new ClassifierError(why);
    worker.terminate();
    for (const { reject } of waiting.values()) reject(ended);
    waiting.clear();
  }
  worker.addEventListener("error", () => close(`the worker of ${engine} cannot be loaded`));
  worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => {
    const call = waiting.get(data.id);
    waiting.delete(data.id);
    if ("error" in data) call?.reject(new ClassifierError(data.error));
    else call?.resolve(data.value);
  });

  return {
    close,
    call<M extends keyof Methods>(
      method: M,
      args: Parameters<Methods[M]>,
      transfer: Transferable[] = [],
    ) {
      return new Promise((resolve, reject) => {
        if (ended) return reject(ended);
        const request: Request = { id: calls++, method, args };
        waiting.set(request.id, { resolve, reject });
        worker.postMessage(request, transfer);
      }) as ReturnType<Methods[M]>;
    },
  };
}
