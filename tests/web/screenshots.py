# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/web.md: ``python tests/web/screenshots.py``; needs Chromium."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
MEDIA = ROOT / "docs" / "media"
LONG = 600_000  # milliseconds


def store(name, picture):
    Image.open(io.BytesIO(picture)).convert("RGB").save(MEDIA / name, quality=82, method=6)
    print(f"{name}: {(MEDIA / name).stat().st_size // 1000} kB")


def main():
    command = [sys.executable, "-m", "flavr_jax", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = re.search(r"http://\S+", server.stdout.readline())[0]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 860, "height": 900})
            page.goto(address)
            page.locator("#file").set_input_files(MEDIA / "sample.mp4")
            page.get_by_label("By a factor of").select_option("8")
            page.get_by_role("button", name="Start").click()
            card = page.locator("article")
            expect(card.locator(".status")).to_contain_text("frames became", timeout=LONG)
            card.locator(".marks button").first.click()
            # Half-way between two frames of the original, where the difference is largest.
            card.get_by_role("slider", name="Time of both").fill(f"{card.page.evaluate(MIDDLE)}")
            page.wait_for_timeout(500)
            page.evaluate("document.activeElement.blur()")
            store("web_desktop.webp", page.screenshot(full_page=True))
            page.set_viewport_size({"width": 360, "height": 740})
            card.get_by_role("button", name="Side by side").click()
            page.evaluate("document.activeElement.blur()")
            card.scroll_into_view_if_needed()
            page.evaluate("scrollTo(0, document.querySelector('article').offsetTop - 12)")
            page.wait_for_timeout(500)
            store("web_phone.webp", page.screenshot())
            browser.close()
    finally:
        server.terminate()
        server.wait()


MIDDLE = "Math.floor(document.querySelector('video.pair').currentTime * 12) / 12 + 4 / 96 + 0.001"

if __name__ == "__main__":
    main()
