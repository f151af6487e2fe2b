/** The self-test: what this browser computes on the reference pictures, and what Python did. */
import type { Classifier, SelfTest } from "./classifier.js";
import { $, made } from "./dom";

const TITLE = "Run the self-test";
const LEAST = 0.0001; // percent, of which less is told as such

function percent(share: number): string {
  const exact = 100 * share;
  return 0 < exact && exact < LEAST ? `< ${LEAST} %` : `${Number(exact.toPrecision(2))} %`;
}

/** run: gives the result, or undefined if it could not be had; told of the progress meanwhile. */
export function bindSelfTest(
  run: (onProgress: Parameters<Classifier["selfTest"]>[0]) => Promise<SelfTest | undefined>,
): void {
  const button = $<HTMLButtonElement>("test");
  let busy = false; // not `disabled`, which would take the focus away
  button.onclick = async () => {
    if (busy) return;
    busy = true;
    clearSelfTest();
    const found = await run(({ loaded, total }) => {
      button.textContent = `Testing ${loaded} of ${total}`;
    });
    busy = false;
    button.textContent = TITLE;
    if (found) show(found);
  };
}

/** Of another model. */
export function clearSelfTest(): void {
  $("outcome").hidden = true;
  $("differences").replaceChildren();
}

function show({ pictures, largest, tolerance, passed }: SelfTest): void {
  const agreeing = pictures.filter(({ agrees }) => agrees).length;
  $("outcome").hidden = false;
  $("outcome").classList.toggle("failed", !passed);
  $("outcome").replaceChildren(
    made("strong", {}, passed ? "Passed" : "Failed"),
    `: ${agreeing} of ${pictures.length} agree. The largest difference is ${percent(largest)} ` +
      `of the logits' range; ${percent(tolerance)} is allowed.`,
  );
  $("differences").replaceChildren(
    ...pictures.map(({ picture, difference, agrees }) =>
      made(
        "li",
        { className: agrees ? "" : "differs" },
        made("img", { src: picture, alt: agrees ? "agrees:" : "differs:", draggable: false }),
        `${agrees ? "" : "✗ "}${percent(difference)}`,
      ),
    ),
  );
}
