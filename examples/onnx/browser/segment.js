// A label map in the browser, from a file of `unseen export`: model.onnx, with model.onnx.json and
// model.onnx.npy beside it.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need a server that isolates the page
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

const SHOWN = 800; // longer side of the picture, in pixels
const ALPHA = 0.5;
const [input, state, canvas, legend] = ["input", "#state", "canvas", "ul"].map((name) =>
  document.querySelector(name),
);

// The class vectors: a .npy file of float32, whose header says its shape.
async function readVectors(address) {
  const bytes = await (await fetch(address)).arrayBuffer();
  const length = new DataView(bytes).getUint16(8, true);
  const header = new TextDecoder().decode(bytes.slice(10, 10 + length));
  if (!header.includes("'<f4'") || header.includes("'fortran_order': True")) {
    throw new Error(`${address} does not hold float32 values row by row`);
  }
  const shape = header.match(/\((\d+), (\d+)\)/).slice(1).map(Number);
  return new ort.Tensor("float32", new Float32Array(bytes.slice(10 + length)), shape);
}

// The photograph as the model takes it: a square, channels first, 0 to 1.
function pixelsOf(image, side) {
  const square = new OffscreenCanvas(side, side).getContext("2d");
  square.imageSmoothingQuality = "high";
  square.drawImage(image, 0, 0, side, side);
  const { data } = square.getImageData(0, 0, side, side);
  const values = new Float32Array(3 * side * side);
  for (let i = 0; i < side * side; i++) {
    for (let channel = 0; channel < 3; channel++) {
      values[channel * side * side + i] = data[4 * i + channel] / 255;
    }
  }
  return new ort.Tensor("float32", values, [1, 3, side, side]);
}

// The best class of every pixel, of scores (1, K, h, w) that are resized linearly.
function labelsOf(scores, height, width) {
  const [, count, rows, columns] = scores.dims;
  const labels = new Uint8Array(height * width);
  const along = (i, from, to) => Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
  for (let y = 0; y < height; y++) {
    const row = along(y, rows, height), top = Math.floor(row), down = row - top;
    const below = Math.min(top + 1, rows - 1);
    for (let x = 0; x < width; x++) {
      const column = along(x, columns, width), left = Math.floor(column), right = column - left;
      const next = Math.min(left + 1, columns - 1);
      let best = -Infinity;
      for (let label = 0; label < count; label++) {
        const at = (r, c) => scores.data[(label * rows + r) * columns + c];
        const upper = at(top, left) * (1 - right) + at(top, next) * right;
        const lower = at(below, left) * (1 - right) + at(below, next) * right;
        const score = upper * (1 - down) + lower * down;
        if (score > best) [best, labels[y * width + x]] = [score, label];
      }
    }
  }
  return labels;
}

// Far apart for neighbours in the list, and of one lightness.
function colourOf(label) {
  const hue = (label * 137.5) % 360, chroma = 0.28;
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.58 - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

function draw(image, labels, names) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  const shown = context.getImageData(0, 0, width, height);
  const counts = new Array(names.length).fill(0);
  labels.forEach((label, i) => {
    counts[label]++;
    colourOf(label).forEach((value, channel) => {
      shown.data[4 * i + channel] += ALPHA * (value - shown.data[4 * i + channel]);
    });
  });
  context.putImageData(shown, 0, 0);
  legend.replaceChildren(
    ...names
      .map((name, label) => ({ name, label, share: counts[label] / labels.length }))
      .filter(({ share }) => share > 0)
      .sort((one, other) => other.share - one.share)
      .map(({ name, label, share }) => {
        const [item, swatch] = [document.createElement("li"), document.createElement("span")];
        swatch.style.background = `rgb(${colourOf(label)})`;
        item.append(swatch, `${name} ${(100 * share).toFixed(1)} %`);
        return item;
      }),
  );
}

async function main() {
  const told = await (await fetch("model.onnx.json")).json();
  const text = await readVectors("model.onnx.npy");
  const session = await ort.InferenceSession.create("model.onnx");
  input.disabled = false;
  state.textContent = `Choose a photograph. Classes: ${told.classes.join(", ")}`;
  input.addEventListener("change", async () => {
    try {
      const image = await createImageBitmap(input.files[0]);
      const factor = Math.min(1, SHOWN / Math.max(image.width, image.height));
      [canvas.width, canvas.height] = [image.width, image.height].map((n) => Math.round(n * factor));
      const begun = performance.now();
      const { scores } = await session.run({ images: pixelsOf(image, told.size), text });
      const labels = labelsOf(scores, canvas.height, canvas.width);
      canvas.hidden = false;
      draw(image, labels, told.classes);
      state.textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
    } catch (error) {
      canvas.hidden = true;
      legend.replaceChildren();
      state.textContent = `This file is no image that the browser reads (${error.message}).`;
    }
  });
}

main().catch((error) => {
  state.textContent = `The model cannot be loaded: ${error.message}. See README.md.`;
});
