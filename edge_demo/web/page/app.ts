/** The page: what is shown, what classifies it, and what to say when that fails. */
import { createClassifier } from "./classifier.js";
import type { Classification, Classifier, Manifest, Options, Progress } from "./classifier.js";
import * as camera from "./camera";
import { $, made, megabytes, sentence, tell } from "./dom";
import { bindDrop } from "./drop";
import { tellWhenOffline, throughServiceWorker } from "./offline";
import * as results from "./results";
import { bindSelfTest, clearSelfTest } from "./selftest";
import { bindSettings, showSettings } from "./settings";
import * as stage from "./stage";

const FOLDER = new URL("./", document.baseURI);
const TOP = 5;
const LARGEST = 64e6; // bytes of a picture

/** A picture that stands still. */
interface Still {
  blob: Blob;
  name: string;
  mirrored?: boolean;
  /** The example that was pressed. */
  button?: HTMLButtonElement;
}

let classifier: Classifier | undefined;
let shown: Still | undefined;

/** Runs one piece of work after the other. */
function queue() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const mine = last.then(() => work());
    last = mine.catch(() => undefined);
    return mine;
  };
}
const inTurn = queue(); // what the classifier does
const moving = queue(); // of the camera

/** Does what the user asked for; what fails is told in one sentence and leaves the last result there. */
async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  tell($("error"));
  try {
    return await work();
  } catch (error) {
    tell($("error"), sentence(error));
    return undefined;
  }
}

// Loading

let loads = 0;

/** Changes to another model, or the same elsewhere; the old one serves until that is ready. */
async function load(options: Options = {}): Promise<void> {
  const mine = ++loads;
  const onProgress = ({ stage, loaded, total }: Progress) =>
    mine === loads && showDownload(stage, loaded, total);
  downloads.clear();
  $("loading").hidden = false;
  try {
    const next = await createClassifier(FOLDER, { ...options, onProgress });
    if (mine !== loads) return next.dispose();
    await inTurn(async () => {
      classifier?.dispose();
      classifier = next;
    });
    clearSelfTest();
    $<HTMLButtonElement>("test").disabled = false;
  } finally {
    if (mine === loads) {
      $("loading").hidden = true;
      if (classifier) showSettings(classifier);
    }
  }
  if (shown) await look(shown);
}

/** Of each file that is being loaded: how many of its bytes are there. */
const downloads = new Map<string, { loaded: number; total: number }>();

function showDownload(file: string, loaded: number, total: number): void {
  downloads.set(file, { loaded, total });
  const sum = (field: "loaded" | "total") =>
    [...downloads.values()].reduce((bytes, download) => bytes + download[field], 0);
  const progress = $<HTMLProgressElement>("progress");
  progress.max = sum("total");
  progress.value = sum("loaded");
  if (progress.value === progress.max) progress.removeAttribute("value");
  $("progress-label").textContent = progress.hasAttribute("value")
    ? `Loading: ${megabytes(progress.value)} of ${megabytes(progress.max)}`
    : "Starting";
}

// Looking

let looks = 0;

/** Classifies a picture and shows it, or only shows it if the model is still being loaded. */
async function look(still: Still): Promise<void> {
  const mine = ++looks;
  if (still.blob.size > LARGEST)
    throw new Error(`${still.name} is larger than ${megabytes(LARGEST)}.`);
  const found = await inTurn(async () => classifier?.classify(still.blob, { top: TOP }));
  if (mine !== looks) return;
  await stage.showPicture(still.blob, still.name, still.mirrored);
  stopCamera();
  shown = still;
  if (found) show(found, false);
}

async function lookAt(video: HTMLVideoElement): Promise<void> {
  try {
    const found = await inTurn(async () => classifier?.classify(video, { top: TOP }));
    if (!found || !camera.running()) return;
    stage.ambient(video);
    show(found, true);
  } catch (error) {
    await halt(sentence(error));
  }
}

function show(found: Classification, live: boolean): void {
  const { scores, preprocess } = classifier!.manifest;
  results.show(found, scores, live);
  stage.showAttention(found.attention, preprocess);
  for (const button of $("examples").querySelectorAll("button"))
    button.ariaCurrent = String(button === shown?.button);
  if (performance.getEntriesByName("first-result").length > 0) return;
  performance.mark("first-result");
  tellWhenOffline();
}

// The camera

let mirrored = false;

async function startCamera(open = camera.start): Promise<void> {
  const view = await open(stage.video);
  looks++; // what is still being looked at is out of date
  shown = undefined;
  mirrored = view.mirrored;
  stage.showVideo(mirrored);
  showCamera(true, view.several);
  camera.watch(stage.video, lookAt, () => void halt("The camera went away."));
}

function stopCamera(): void {
  camera.stop(stage.video);
  showCamera(false, false);
}

function showCamera(on: boolean, several: boolean): void {
  const button = $("camera");
  button.classList.toggle("live", on);
  button.querySelector("use")!.setAttribute("href", on ? "#icon-stop" : "#icon-camera");
  button.querySelector("span")!.textContent = on ? "Stop" : "Camera";
  $("turn").hidden = !several;
}

/** Stops the camera; its last picture stays. */
async function freeze(): Promise<void> {
  if (!camera.running()) return;
  const still = { blob: await stage.still(), name: "The camera's last picture", mirrored };
  await look(still);
}

async function halt(reason: string): Promise<void> {
  await moving(freeze).catch(stopCamera);
  tell($("error"), reason);
}

// The beginning

/** What can be shown before the model is there: its name, examples and the first picture. */
async function introduce(): Promise<void> {
  const manifest: Manifest = await (await fetch("classifier.json")).json();
  $("name").textContent = document.title = manifest.name;
  results.expectRows(Math.min(TOP, manifest.labels.length));
  const usual = manifest.models.find(({ name }) => name === manifest.default);
  $("attention").hidden = !usual?.outputs.includes("attention");
  bindSettings(manifest, (options) => void attempt(() => load(options)));
  const examples = manifest.reference.map(({ picture }, i) => {
    const image = made("img", { src: picture, alt: "", loading: "lazy", draggable: false });
    const button = made("button", { ariaLabel: `Example ${i + 1}` }, image);
    const lookAtIt = async () => {
      const blob = await (await fetch(picture)).blob();
      await look({ blob, name: `Example ${i + 1}`, button });
    };
    button.onclick = () => void attempt(lookAtIt);
    $("examples").append(made("li", {}, button));
    return lookAtIt;
  });
  $("examples").hidden = examples.length === 0;
  if (await camera.allowed()) await attempt(() => moving(startCamera));
  if (!camera.running() && !shown) await examples[0]?.();
}

const reveal = () => $("stage").scrollIntoView({ block: "nearest" });

$("camera").onclick = () => {
  reveal();
  void attempt(() => moving(() => (camera.running() ? freeze() : startCamera())));
};
$("turn").onclick = () =>
  void attempt(() =>
    moving(async () => {
      const turn = camera.other();
      await freeze();
      await startCamera(turn);
    }),
  );
addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && camera.running()) void attempt(() => moving(freeze));
});

let paused = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && camera.running()) {
    paused = true;
    void attempt(() => moving(freeze));
  } else if (!document.hidden && paused) {
    paused = false;
    void attempt(() => moving(startCamera));
  }
});

bindDrop((file) => {
  reveal();
  void attempt(() => look({ blob: file, name: file.name || "The picture" }));
});
$("error").onclick = () => tell($("error")); // which may lie over something
bindSelfTest((onProgress) => attempt(() => inTurn(() => classifier!.selfTest(onProgress))));

await throughServiceWorker(showDownload);
await attempt(() => Promise.all([load(), introduce().catch(() => undefined)])); // load says why
