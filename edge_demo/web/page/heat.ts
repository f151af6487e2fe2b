/** Where the model looked, in colours over the picture, as `edge_demo.outputs.annotate` draws it. */
import type { Classification } from "./classifier.js";

/** From none to most, dark to bright; the darkest are the most transparent. */
const HEAT = [
  [20, 10, 60],
  [120, 30, 110],
  [220, 70, 60],
  [252, 170, 40],
  [252, 255, 165],
];
const WHOLE = [5, 98]; // percentiles of the attention that the colours go from and to
const OPACITY = 0.75; // of the most looked at
const FINER = 12; // pixels of the map for each patch

type Attention = NonNullable<Classification["attention"]>;

export function paint(canvas: HTMLCanvasElement, attention: Attention): void {
  const { values, rows, columns } = attention;
  const [low, high] = WHOLE.map((percent) => percentile(values, percent));
  const small = new ImageData(columns, rows);
  values.forEach((value, i) => {
    const share = Math.min(Math.max((value - low) / Math.max(high - low, 1e-12), 0), 1);
    small.data.set([255 * share, 0, 0, 255], 4 * i);
  });
  const patches = new OffscreenCanvas(columns, rows);
  patches.getContext("2d")!.putImageData(small, 0, 0);
  canvas.width = FINER * columns;
  canvas.height = FINER * rows;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high";
  context.drawImage(patches, 0, 0, canvas.width, canvas.height);
  const fine = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < fine.data.length; i += 4) fine.data.set(coloured(fine.data[i] / 255), i);
  context.putImageData(fine, 0, 0);
  canvas.ariaLabel = `The model looked most at the ${place(attention)}`;
}

function coloured(share: number): number[] {
  const position = share * (HEAT.length - 1);
  const from = Math.min(Math.floor(position), HEAT.length - 2);
  const colour = HEAT[from].map(
    (level, i) => level + (position - from) * (HEAT[from + 1][i] - level),
  );
  return [...colour, 255 * OPACITY * share];
}

/** As NumPy has it, with linear interpolation. */
function percentile(values: Float32Array, percent: number): number {
  const sorted = values.slice().sort();
  const position = (percent / 100) * (sorted.length - 1);
  const from = Math.floor(position);
  const to = Math.min(from + 1, sorted.length - 1);
  return sorted[from] + (position - from) * (sorted[to] - sorted[from]);
}

/** The third of the picture, both ways, that has most of it. */
function place({ values, rows, columns }: Attention): string {
  const sums = Array.from({ length: 9 }, () => 0);
  values.forEach((value, i) => {
    const row = Math.floor((3 * Math.floor(i / columns)) / rows);
    const column = Math.floor((3 * (i % columns)) / columns);
    sums[3 * row + column] += value;
  });
  const most = sums.indexOf(Math.max(...sums));
  const vertical = ["upper", "middle", "lower"][Math.floor(most / 3)];
  const horizontal = ["left", "centre", "right"][most % 3];
  return most === 4 ? "centre" : `${vertical} ${horizontal}`;
}
