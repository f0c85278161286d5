# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flavr_jax.data import array_record

pytest.importorskip("tensorflow_datasets", reason="packing needs the extra `train`")

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_of_frames_is_packed_in_shots(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for length in (12, 9):
        blocks = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        frames += [blocks[:, shift : shift + 128] for shift in range(length)]
    (tmp_path / "clips/walk").mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"clips/walk/{number:02d}.png")
    done = run("folder-2x", "--source", tmp_path / "clips", "--output", tmp_path / "packed")
    assert done.returncode == 0, done.stderr
    assert "2 clips, 21 frames" in done.stdout
    assert done.stdout.count("\n") == 1
    shots = array_record.read(tmp_path / "packed")
    assert [len(shot.clip) for shot in shots] == [12, 9]
    np.testing.assert_array_equal(shots[1].clip.read(0), frames[12])


def test_mistakes_are_one_line(tmp_path):
    for name, said in (("vimeo", "unknown data set 'vimeo'"), ("vimeo90k", "sep_testlist.txt")):
        done = run(name, "--source", tmp_path, "--output", tmp_path / "packed")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
