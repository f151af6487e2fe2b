/** From logits to scores, as `edge_demo.scores`; float32 as there, so that equal scores are equal here. */

import type { Manifest } from "./types";

type Scores = (logits: Float32Array) => Float32Array;

/** Name in classifier.json -> probabilities of logits. */
export const SCORES: Record<Manifest["scores"], Scores> = {
  softmax: (logits) => {
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const exponentials = logits.map((logit) => Math.exp(logit - largest));
    const sum = exponentials.reduce((a, b) => a + b);
    return exponentials.map((value) => value / sum);
  },
  sigmoid: (logits) => logits.map((x) => 1 / (1 + Math.exp(-x))),
};

/** The `top` best labels, the earlier one first where scores are equal. */
export function ranked(
  scores: Float32Array,
  labels: string[],
  top: number,
): { label: string; score: number }[] {
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
  return order.slice(0, top).map((i) => ({ label: labels[i], score: scores[i] }));
}
