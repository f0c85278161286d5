# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium, with a real server and a real, if tiny and untrained, network."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
# In a process of its own, because beside other tests the browser's driver has hung.
if os.environ.get("FLAVR_BROWSER_TESTS") != "1":
    pytest.skip("runs alone: FLAVR_BROWSER_TESTS=1 pytest tests/web/test_browser.py, with "
                "Chromium (apt-get install chromium)", allow_module_level=True)  # fmt: skip

from playwright.sync_api import expect, sync_playwright  # noqa: E402 - only if it is there

# Without zygotes: two of them reaping children at a time have locked up a kernel.
FLAGS = [
    "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LONG = 60_000  # milliseconds; a busy machine needs some to import JAX and to compile


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_clip):
    """Videos."""
    folder = tmp_path_factory.mktemp("browser")
    write_clip(folder / "waves.mp4", 20, (64, 48), cut=10)
    write_clip(folder / "long.mp4", 90, (64, 48))
    (folder / "text.mp4").write_text("no video " * 100)
    return folder


@pytest.fixture(scope="module")
def address(folder, tiny_2x):
    """A server in a process of its own, as users start it."""
    options = ["--checkpoint", str(tiny_2x), "--port", "0", "--upload-mb", "1"]
    command = [sys.executable, "-m", "flavr_jax", "serve", *options]
    (folder / "tmp").mkdir()
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    )  # fmt: skip
    line = server.stdout.readline()
    yield re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    server.send_signal(signal.SIGINT)
    assert (server.wait(20), server.stderr.read()) == (130, "interrupted.\n")
    assert not list((folder / "tmp").glob("flavr-serve-*")), "nothing is left of the clips"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(browser, address):
    """The page of one visitor; scripts may raise no error, and nothing may come from elsewhere."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(LONG)
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    page.close()
    # Chromium reports an answer of 4xx as an error of the console.
    assert not [error for error in errors if "Failed to load resource" not in error]
    assert all(url.startswith((address, "blob:", "data:")) for url in requests)


def order(page, path, **choices):
    for name, value in choices.items():
        page.locator(f"select[name={name}]").select_option(value)
    page.locator("#file").set_input_files(path)
    page.get_by_role("button", name="Start").click()


@pytest.fixture(scope="module")
def card(page, folder):
    """The card of a clip that went through the whole queue."""
    order(page, folder / "waves.mp4", factor="2")
    card = page.locator("article", has_text="waves.mp4")
    expect(card.get_by_role("progressbar")).to_be_visible(timeout=LONG)
    expect(card.locator(".status")).to_contain_text("20 frames became 39, 1 cut kept", timeout=LONG)
    expect(page.get_by_role("status")).to_have_text("waves.mp4: done")
    return card


def until(condition):
    """Wait; Playwright's own function for that is refused by the page's security policy."""
    end = time.monotonic() + LONG / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def pixels(card):
    """Two pixels of the canvas, near its left and its right edge."""
    script = """canvas => [0.1, 0.9].map(x => [...canvas.getContext("2d").getImageData(
        x * canvas.width, canvas.height / 2, 1, 1).data])"""
    return card.locator("canvas").evaluate(script)


def test_a_finished_clip_can_be_compared_in_step(card):
    expect(card.locator(".clock")).to_contain_text("/ 0:01.95")
    divider = card.get_by_role("slider", name="Border between original and result")
    divider.fill("1000")
    original = pixels(card)
    divider.fill("0")
    result = pixels(card)
    assert original != result
    divider.fill("500")
    assert pixels(card) == [original[0], result[1]]
    card.get_by_role("button", name="Side by side").click()
    assert card.locator("canvas").evaluate("canvas => [canvas.width, canvas.height]") == [128, 48]
    card.get_by_role("button", name="Slider").click()


def test_the_comparison_and_the_result_play(card):
    playing = "video => video.currentTime > 0.2 && !video.paused && video.readyState >= 2"
    pair = card.locator("video.pair")
    card.get_by_role("button", name="Play").click()
    until(lambda: pair.evaluate(playing))
    assert float(card.get_by_role("slider", name="Time of both").input_value()) > 0
    card.get_by_role("button", name="Pause").click()
    assert pair.evaluate("video => video.paused")
    card.get_by_role("button", name="Result alone").click()
    alone = card.locator("video.alone")
    alone.evaluate("video => video.play()")
    until(lambda: alone.evaluate(playing))
    assert alone.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 48]
    card.get_by_role("button", name="Slider").click()


def test_cuts_and_weakest_moments_lead_to_their_times(card):
    cut = card.locator(".marks h3", has_text="Cuts found").locator("+ ul button")
    expect(cut).to_have_text(["0:01.00"])
    cut.click()
    expect(card.locator(".clock")).to_contain_text("0:01.00 /")
    weakest = card.locator(".marks h3", has_text="Weakest moments").locator("+ ul button")
    assert weakest.count() == 6
    expect(weakest.first).to_have_text(re.compile(r"^0:0\d\.\d\d · \d+\.\d dB$"))


def test_results_can_be_downloaded_and_the_report_opened(card, tmp_path):
    with card.page.expect_download() as download:
        card.get_by_role("link", name="Download the result").click()
    assert download.value.suggested_filename == "waves_2x.mp4"
    download.value.save_as(tmp_path / "got.mp4")
    assert (tmp_path / "got.mp4").read_bytes()[4:8] == b"ftyp"
    card.locator("summary").click()
    report = card.frame_locator("iframe")
    expect(report.get_by_role("heading", name="Weakest moments")).to_be_visible()
    assert report.locator("img").first.evaluate("image => image.naturalWidth") == 64


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(card, width):
    page = card.page
    page.set_viewport_size({"width": width, "height": 700})
    card.get_by_role("button", name="Side by side").click()
    try:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        sizes = card.locator("canvas").evaluate("canvas => [canvas.width, canvas.height]")
        assert sizes == [64, 96], "one above the other"
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= width)
    finally:
        card.get_by_role("button", name="Slider").click()
        page.set_viewport_size({"width": 1000, "height": 900})


def test_a_running_clip_is_cancelled(page, folder):
    order(page, folder / "long.mp4")
    card = page.locator("article", has_text="long.mp4")
    expect(card.locator(".status")).to_contain_text("tarting", timeout=LONG)
    card.get_by_role("button", name="Cancel").click()
    expect(card.locator(".status")).to_have_text("Cancelled")
    card.get_by_role("button", name="Remove").click()
    expect(card).to_have_count(0)


def test_errors_are_shown_beside_the_form(page, folder, tmp_path):
    error = page.locator("#error")
    order(page, folder / "text.mp4")
    expect(error).to_contain_text("not a video of a known kind")
    (tmp_path / "large.mp4").write_bytes(bytes(1_100_000))
    page.locator("#file").set_input_files(tmp_path / "large.mp4")
    expect(error).to_contain_text("larger than 1.0 MB")
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    page.get_by_role("radio", name="a given frame rate").check()
    page.get_by_role("textbox", name="Frames a second").fill("fast")
    order(page, folder / "waves.mp4")
    expect(error).to_contain_text("The frame rate is 'fast'")
    page.get_by_role("radio", name="smoother").check()
    expect(page.get_by_role("textbox", name="Frames a second")).to_be_hidden()


def test_a_dropped_video_is_chosen(page):
    page.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(2000)], "dropped.mp4", { type: "video/mp4" }));
        document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }""")
    expect(page.locator("#chosen")).to_have_text("dropped.mp4, 2 kB")


def test_everything_in_the_form_has_a_name_for_screen_readers(page):
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, button")]
        .filter(each => !each.closest("[hidden]"))
        .filter(each => !each.ariaLabel && !each.labels?.length && !each.textContent.trim())
        .map(each => each.outerHTML)""")
    assert not unnamed
