/** What was seen: labels with bars, how long it took, and the same for screen readers. */
import type { Classification, Manifest } from "./classifier.js";
import { $, made } from "./dom";

const PRESENT = 0.5; // score from which on a picture has a label, where it may have any number of them
const SPEAK = 3000; // milliseconds between two changes that are spoken
const RECENT = 3000; // milliseconds that the rate is of
const REFRESH = 300; // milliseconds between two changes of the times, so that they can be read

let spoken = 0;
let refreshed = 0;
let moments: number[] = [];

/** live: one of many, of a camera. */
export function show(found: Classification, scores: Manifest["scores"], live: boolean): void {
  const there = found.results
    .filter(({ score }, place) => (scores === "sigmoid" ? score >= PRESENT : place === 0))
    .map(({ label }) => label);
  $("nothing").hidden = there.length > 0;
  expectRows(found.results.length);
  found.results.forEach(({ label, score }, place) => {
    const row = $("bars").children[place];
    row.classList.toggle("there", there.includes(label));
    row.children[0].textContent = label;
    row.children[1].textContent = `${(100 * score).toFixed(1)} %`;
    (row.children[2].firstChild as HTMLElement).style.transform = `scaleX(${score})`;
  });
  showTimes(found.milliseconds, live);
  say(there.join(", ") || $("nothing").textContent!, live);
}

/** To screen readers, not more often than they can say it. */
function say(text: string, live: boolean): void {
  const now = performance.now();
  if ((live && now - spoken < SPEAK) || $("spoken").textContent === text) return;
  $("spoken").textContent = text;
  spoken = now;
}

/** As many rows as there will be results, empty ones, so that nothing moves when they come. */
export function expectRows(count: number): void {
  while ($("bars").children.length < count) {
    const bar = made("i", {}, made("b"));
    $("bars").append(made("li", {}, made("span", {}, "–"), made("span"), bar));
  }
}

function showTimes(milliseconds: Classification["milliseconds"], live: boolean): void {
  const now = performance.now();
  moments = live ? [...moments.filter((moment) => now - moment < RECENT), now] : [];
  if (live && now - refreshed < REFRESH) return;
  refreshed = now;
  for (const [stage, time] of Object.entries(milliseconds))
    $(stage).textContent = time < 100 ? `${time.toFixed(1)} ms` : `${time.toFixed(0)} ms`;
  $("rate-cell").hidden = !live;
  if (moments.length > 1) {
    const rate = (1000 * (moments.length - 1)) / (now - moments[0]);
    $("rate").textContent = rate.toFixed(1);
  }
}
