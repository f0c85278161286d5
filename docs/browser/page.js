// SPDX-License-Identifier: Apache-2.0
import { between, open, sourceOf } from "./runtime.js";

const SAMPLE = "../media/sample.mp4";
const [RATE, SHOWN, SLOWER] = [12, 12, 3]; // frames per second of the sample; frames to read; slowdown
const element = (id) => document.getElementById(id);
let model = null;
let playing = 0;

function tell(text, { error = false } = {}) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

// Read the first frames of the sample at the network's size, as RGBA.
async function frames(width, height) {
  const video = Object.assign(document.createElement("video"), { muted: true, src: SAMPLE, preload: "auto" });
  const once = (event) =>
    new Promise((resolve, reject) => {
      video.addEventListener(event, resolve, { once: true });
      video.addEventListener("error", () => reject(new Error("This browser cannot play the sample (H.264).")), { once: true });
    });
  await once("loadeddata");
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const read = [];
  for (let number = 0; number < SHOWN; number++) {
    const seeked = once("seeked");
    video.currentTime = (number + 0.5) / RATE;
    await seeked;
    context.drawImage(video, 0, 0, width, height);
    read.push(context.getImageData(0, 0, width, height));
  }
  return read;
}

// Return the frames around an interval as one array; at the ends, the first or last frame is repeated.
function windowOf(read, interval, inputs) {
  const size = read[0].width * read[0].height;
  const windows = new Float32Array(inputs * size * 3);
  for (let place = 0; place < inputs; place++) {
    const wanted = interval + place - inputs / 2 + 1;
    const { data } = read[Math.min(Math.max(wanted, 0), read.length - 1)];
    for (let pixel = 0; pixel < size; pixel++)
      for (let channel = 0; channel < 3; channel++)
        windows[(place * size + pixel) * 3 + channel] = data[pixel * 4 + channel] / 255;
  }
  return windows;
}

// Convert the frames of one interval to pictures.
function pictures({ data, shape: [, count, height, width] }) {
  const size = height * width;
  return Array.from({ length: count }, (_, number) => {
    const picture = new ImageData(width, height);
    for (let pixel = 0; pixel < size; pixel++) {
      for (let channel = 0; channel < 3; channel++)
        picture.data[pixel * 4 + channel] = Math.round(255 * data[(number * size + pixel) * 3 + channel]);
      picture.data[pixel * 4 + 3] = 255;
    }
    return picture;
  });
}

// Show the original beside the result in a loop, until there is another result.
function play(made, factor) {
  const canvas = element("result");
  [canvas.width, canvas.height] = [made[0].width, made[0].height];
  const context = canvas.getContext("2d");
  const turn = ++playing;
  const began = performance.now();
  const draw = (now) => {
    if (turn !== playing) return;
    const number = Math.floor(((Math.max(0, now - began) / 1000) * RATE * factor) / SLOWER) % made.length;
    const half = Math.floor(canvas.width / 2);
    context.putImageData(made[number - (number % factor)], 0, 0, 0, 0, half, canvas.height);
    context.putImageData(made[number], 0, 0, half, 0, canvas.width - half, canvas.height);
    requestAnimationFrame(draw);
  };
  draw(began);
}

async function run() {
  tell("Loading the runtime…");
  const progress = element("progress");
  let read = null;
  const network = await open(model, sourceOf(location), async (opened) => {
    const [, inputs, height, width] = opened.shape;
    read = await frames(width, height);
    tell("The first interval…");
    await between(opened, windowOf(read, 0, inputs));
  });
  const made = [];
  let factor = 1;
  progress.hidden = false;
  const began = performance.now();
  for (let interval = 0; interval + 1 < read.length; interval++) {
    const middle = pictures(await between(network, windowOf(read, interval, network.shape[1])));
    factor = middle.length + 1;
    made.push(read[interval], ...middle);
    progress.value = (interval + 1) / (read.length - 1);
    tell(`${interval + 1} of ${read.length - 1} intervals…`);
  }
  made.push(read.at(-1));
  const seconds = (performance.now() - began) / 1000 / (read.length - 1);
  const where = network.kind === "webgpu" ? "the GPU (WebGPU)" : "the CPU (WebAssembly)";
  progress.hidden = true;
  tell(`${read.length} frames became ${made.length} on ${where}, ${seconds.toFixed(2)} s for each interval.`);
  play(made, factor);
}

async function start() {
  element("start").disabled = true;
  try {
    await run();
  } catch (error) {
    tell(error.message, { error: true });
  }
  element("start").disabled = false;
}

element("model").addEventListener("change", async ({ target }) => {
  if (!target.files.length) return;
  model = new Uint8Array(await target.files[0].arrayBuffer());
  tell(`${target.files[0].name}, ${(model.length / 1e6).toFixed(1)} MB.`);
  element("start").disabled = false;
});
element("start").addEventListener("click", start);
