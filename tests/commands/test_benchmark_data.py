# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("grain", reason="reading data sets is an extra")

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_data.py"


def test_every_folder_gets_a_row_that_is_written_at_once(tmp_path):
    rng = np.random.default_rng(0)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        (folder / "clip").mkdir(parents=True)
        for number in range(9):
            frame = rng.integers(0, 256, (24, 24, 3), np.uint8)
            Image.fromarray(frame).save(folder / "clip" / f"{number}.png")
    missing = tmp_path / "missing"
    done = subprocess.run(
        [
            sys.executable, SCRIPT, "--source", *folders, missing, "--dataset", "folder-2x",
            "--crop", "16", "--batch", "2", "--workers", "0", "--threads", "1",
            "--seconds", "0.2", "--no-synthetic", "--json", tmp_path / "out.jsonl",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {missing} holds no clips")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    titles = [f"{folder}, no worker processes, 5 frames" for folder in folders]
    assert [row["source"] for row in rows] == titles
    printed = done.stdout.splitlines()[1:]
    for row, line in zip(rows, printed, strict=True):
        assert row["windows_per_second"] > 0
        assert line == f"{row['source']}: {row['windows_per_second']:.1f} windows/s"
