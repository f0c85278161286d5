# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import ssim

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL = {"ssim_matlab": ssim.ssim_flavr, "ssim_2d": ssim.ssim_2d}


@pytest.mark.parametrize("name", OFFICIAL)
def test_both_ssims_are_those_of_the_official_code(name):
    measure = jax.jit(OFFICIAL[name])
    with np.load(GOLDEN / "metrics.npz") as arrays:
        for case in json.loads((GOLDEN / "metrics.json").read_text()):
            pair = (jnp.asarray(arrays[f"{kind}_{case['i']}"]) for kind in ("prediction", "target"))
            assert float(measure(*pair)) == pytest.approx(case[name], abs=1e-5), case


@pytest.mark.parametrize("measure", OFFICIAL.values(), ids=OFFICIAL)
def test_frames_are_measured_each_on_its_own_and_clamped(measure):
    measure = jax.jit(measure)
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.random((2, 20, 24, 3)), jnp.float32)
    beyond = jnp.where(target > 0.5, target + 1.0, target - 1.0)
    found = measure(jnp.stack([target[0], beyond[1]]), target)
    assert found.shape == (2,)
    assert float(found[0]) == pytest.approx(1.0, abs=1e-6)
    clamped = measure(jnp.clip(beyond[1], 0.0, 1.0), target[1])
    assert float(found[1]) == pytest.approx(float(clamped), abs=1e-6)


def test_small_frames_have_a_similarity_too():
    frame = jnp.full((4, 4, 3), 0.5)
    assert float(ssim.ssim_2d(frame, frame)) == pytest.approx(1.0, abs=1e-6)
