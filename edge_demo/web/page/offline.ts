/** The page's side of the service worker: works offline, isolated on any host, and told of new versions. */
import { $ } from "./dom";

const PATIENCE = 3000; // milliseconds for the first installation, after which the page goes on without
const TRIED = "isolated";

type OnDownload = (file: string, loaded: number, total: number) => void;

/**
 * Waits until requests go through the service worker, so that it keeps all that is loaded from here on.
 *
 * onDownload: is told how much of each of an engine's files is there.
 * On a host that does not isolate its pages it reloads the page once, through the worker, which does.
 */
export async function throughServiceWorker(onDownload: OnDownload): Promise<void> {
  const workers = navigator.serviceWorker as ServiceWorkerContainer | undefined; // https or loopback
  if (!workers) return;
  workers.addEventListener("message", ({ data }) => {
    if (data === "kept") $("offline").hidden = false;
    else onDownload(data.path, data.loaded, data.total);
  });
  workers.startMessages();
  const known = workers.controller;
  const controlled = new Promise<void>((resolve) => {
    workers.addEventListener("controllerchange", () => (known ? location.reload() : resolve()));
  });
  const registered = workers.register("sw.js", { updateViaCache: "none" }).then(offerUpdates);
  if (!known) {
    const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
    await Promise.race([registered.then(() => controlled), late]).catch(() => undefined);
  }
  if (workers.controller && !crossOriginIsolated && !sessionStorage.getItem(TRIED)) {
    sessionStorage.setItem(TRIED, "yes");
    location.reload();
    await new Promise(() => undefined);
  }
}

function offerUpdates(registration: ServiceWorkerRegistration): void {
  const offer = () => {
    if (!registration.waiting || !navigator.serviceWorker.controller) return;
    $("update").hidden = false;
    $("reload").onclick = () => registration.waiting?.postMessage("update");
  };
  offer();
  registration.addEventListener("updatefound", () => {
    registration.installing?.addEventListener("statechange", offer);
  });
}

/** Says so as soon as all that was used so far is kept. */
export function tellWhenOffline(): void {
  navigator.serviceWorker?.controller?.postMessage("kept?");
}
