# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import psnr

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", json.loads((GOLDEN / "metrics.json").read_text()), ids=str)
def test_psnr_flavr_is_that_of_the_official_code(case):
    with np.load(GOLDEN / "metrics.npz") as arrays:
        prediction = jnp.asarray(arrays[f"prediction_{case['i']}"])
        target = jnp.asarray(arrays[f"target_{case['i']}"])
    assert float(psnr.psnr_flavr(prediction, target)) == pytest.approx(case["psnr"], abs=1e-4)


def test_psnr_flavr_of_equal_frames_is_80_db():
    frame = jnp.full((4, 4, 3), 0.3)
    assert float(psnr.psnr_flavr(frame, frame)) == pytest.approx(80.0, abs=1e-4)


def test_psnr_uint8_is_that_of_the_rounded_frames_each_on_its_own():
    rng = np.random.default_rng(0)
    target = rng.random((3, 16, 20, 3)).astype(np.float32)
    prediction = target + rng.normal(0, 0.2, target.shape).astype(np.float32)
    found = psnr.psnr_uint8(jnp.asarray(prediction), jnp.asarray(target))
    assert found.shape == (3,)
    files = [np.clip(x, 0, 1).astype(np.float64) * 255 for x in (target, prediction)]
    error = ((np.rint(files[0]) - np.rint(files[1])) ** 2).mean(axis=(1, 2, 3))
    expected = 10 * np.log10(255**2 / error)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_equal_files_have_infinite_psnr_uint8():
    frame = jnp.full((4, 4, 3), 100 / 255)
    assert float(psnr.psnr_uint8(frame, frame + 1e-4)) == float("inf")
