// SPDX-License-Identifier: Apache-2.0
// Loads one version of onnxruntime-web. A file is refused if its hash differs from that of the file in the npm package.

const CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/";
const FILES = {
  webgpu: {
    script: ["ort.webgpu.bundle.min.mjs", "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f"],
    wasm: ["ort-wasm-simd-threaded.asyncify.wasm", "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR"],
  },
  wasm: {
    script: ["ort.wasm.bundle.min.mjs", "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG"],
    wasm: ["ort-wasm-simd-threaded.wasm", "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"],
  },
};

// Return the location of the runtime's files: the CDN, or the folder of this site that `?runtime=` names.
export function sourceOf(location) {
  const folder = new URLSearchParams(location.search).get("runtime");
  if (!folder) return CDN;
  const url = new URL(folder, location.href);
  if (url.origin !== location.origin) throw new Error("`runtime` must be a folder of this site.");
  return url.href.replace(/\/?$/, "/");
}

async function fetched(source, [name, integrity]) {
  const answer = await fetch(source + name, { integrity, credentials: "omit" });
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status}).`);
  return answer;
}

async function load(kind, source) {
  const { script, wasm } = FILES[kind];
  const [code, binary] = await Promise.all([fetched(source, script), fetched(source, wasm)]);
  const text = new Blob([await code.text()], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(text));
  // Threads would need headers that static sites cannot send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await binary.arrayBuffer();
  return ort;
}

async function hasGPU() {
  return Boolean(navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null)));
}

// Open a model on the GPU, or on the CPU if WebGPU is missing or fails. `trial` runs the opened model once.
export async function open(model, source, trial) {
  for (const kind of (await hasGPU()) ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      const ort = await load(kind, source);
      const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
      const network = { ort, session, kind, shape: session.inputMetadata[0].shape };
      await trial(network);
      return network;
    } catch (error) {
      if (kind === "wasm") throw error;
      console.info("WebGPU failed, going on with WebAssembly:", error.message);
    }
  }
}

// Return the frames of the middle interval in one float32 array, one RGB frame after the other.
// `windows` is a Float32Array of shape [1, inputs, height, width, 3], with values from 0 to 1.
export async function between({ ort, session, shape }, windows) {
  const result = await session.run({ windows: new ort.Tensor("float32", windows, shape) });
  return { data: await result.frames.getData(), shape: result.frames.dims };
}
