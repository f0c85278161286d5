# SPDX-License-Identifier: Apache-2.0
"""The page that runs an exported network, in a real Chromium, by WebAssembly on the CPU."""

import base64
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
# In a process of its own, because beside other tests the browser's driver has hung.
if os.environ.get("FLAVR_BROWSER_TESTS") != "1":
    pytest.skip("runs alone: FLAVR_BROWSER_TESTS=1 pytest tests/web/test_browser_network.py, with "
                "Chromium and npm installed", allow_module_level=True)  # fmt: skip

from playwright.sync_api import expect, sync_playwright  # noqa: E402 - only if it is there

from flavr_jax import checkpoint, export  # noqa: E402

RUNTIME = "onnxruntime-web@1.30.0"
DOCS = Path(__file__).parents[2] / "docs"
# Without zygotes: two of them reaping children at a time have locked up a kernel.
FLAGS = [
    "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LONG = 60_000  # milliseconds


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The runtime's files, from its npm package."""
    folder = tmp_path_factory.mktemp("npm")
    pack = ["npm", "pack", RUNTIME, "--silent", "--pack-destination", str(folder)]
    subprocess.run(pack, check=True, timeout=120, cwd=folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


class Site(http.server.SimpleHTTPRequestHandler):
    """Serves the documentation, and the runtime under /ort/."""

    runtime = None

    def translate_path(self, path):
        if path.startswith("/ort/"):
            return str(self.runtime / path.removeprefix("/ort/"))
        return super().translate_path(path)

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(runtime):
    Site.runtime = runtime
    handler = functools.partial(Site, directory=DOCS)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def model(tiny_2x, tmp_path_factory):
    """A small, untrained network as an ONNX model."""
    stored = checkpoint.load(tiny_2x)
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(export.onnx(stored.config, stored.params, (1, 48, 80)))
    return path


@pytest.fixture(scope="module")
def page(address):
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport={"width": 700, "height": 800})
        page.set_default_timeout(LONG)
        page.errors, page.requests = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        yield page
        page.close()
        chromium.close()


def test_the_sample_is_interpolated_without_a_gpu(page, address, model):
    page.goto(f"{address}/browser/index.html?runtime=/ort/")
    expect(page.get_by_role("button", name="Interpolate")).to_be_disabled()
    page.locator("#model").set_input_files(model)
    page.get_by_role("button", name="Interpolate").click()
    status = page.get_by_role("status")
    expect(status).to_contain_text("12 frames became 23 on the CPU (WebAssembly)", timeout=LONG)
    # Both halves show a picture: their pixels are opaque and not all equal.
    pixels = page.locator("#result").evaluate(
        """canvas => [...canvas.getContext("2d").getImageData(0, 0, 80, 48).data]"""
    )
    picture = np.array(pixels).reshape(48, 80, 4)
    assert (picture[..., 3] == 255).all()
    assert picture[:, :40, :3].std() > 10
    assert picture[:, 40:, :3].std() > 10
    assert not page.errors
    assert all(url.startswith((address, "blob:", "data:")) for url in page.requests)


def test_the_browser_computes_what_onnxruntime_computes(page, address, model, runtime):
    shutil.copy(model, runtime / "tiny.onnx")
    page.goto(f"{address}/browser/index.html?runtime=/ort/")
    windows = np.random.default_rng(0).random((1, 4, 48, 80, 3), np.float32)
    made = page.evaluate(
        """async (windows) => {
            const { between, open, sourceOf } = await import("/browser/runtime.js");
            const model = new Uint8Array(await (await fetch("/ort/tiny.onnx")).arrayBuffer());
            const network = await open(model, sourceOf(location), () => {});
            const { data, shape } = await between(network, new Float32Array(windows));
            return { shape, data: [...data] };
        }""",
        windows.ravel().tolist(),
    )
    expected = export.run_onnx(model.read_bytes(), windows)
    assert tuple(made["shape"]) == expected.shape
    np.testing.assert_allclose(np.reshape(made["data"], expected.shape), expected, atol=1e-5)


def test_a_changed_runtime_is_refused(page, address, model, runtime):
    script = runtime / "ort.wasm.bundle.min.mjs"
    original = script.read_bytes()
    script.write_bytes(original + b"//")
    try:
        page.goto(f"{address}/browser/index.html?runtime=/ort/")
        page.locator("#model").set_input_files(model)
        page.get_by_role("button", name="Interpolate").click()
        expect(page.locator("#status.error")).to_contain_text("fetch", timeout=LONG)
    finally:
        script.write_bytes(original)


def test_mistakes_are_explained(page, address, tmp_path):
    page.goto(f"{address}/browser/index.html?runtime=https://example.org/")
    (tmp_path / "text.onnx").write_text("no model")
    page.locator("#model").set_input_files(tmp_path / "text.onnx")
    page.get_by_role("button", name="Interpolate").click()
    expect(page.locator("#status.error")).to_contain_text("a folder of this site")
    page.goto(f"{address}/browser/index.html?runtime=/ort/")
    page.locator("#model").set_input_files(tmp_path / "text.onnx")
    page.get_by_role("button", name="Interpolate").click()
    expect(page.locator("#status.error")).not_to_be_empty(timeout=LONG)


def test_the_hashes_are_those_of_the_package(runtime):
    text = (DOCS / "browser" / "runtime.js").read_text()
    assert RUNTIME in text
    for name in ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
                 "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):  # fmt: skip
        digest = hashlib.sha384((runtime / name).read_bytes()).digest()
        assert f'"{name}", "sha384-{base64.b64encode(digest).decode()}"' in text
