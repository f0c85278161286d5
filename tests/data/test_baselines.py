# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax.data import baselines
from flavr_jax.data.protocols import PROTOCOLS

EIGHT = PROTOCOLS["fps60-8x"]


def test_averaging_is_exact_on_a_linear_fade():
    fade = np.broadcast_to(np.arange(33, dtype=np.uint8)[:, None, None, None], (33, 8, 8, 3))
    predictions = list(baselines.average(fade, EIGHT))
    assert len(predictions) == 2
    for start, prediction in zip((0, 8), predictions):
        expected = (start + 8 + np.arange(1, 8)) / 255
        np.testing.assert_allclose(prediction.mean(axis=(1, 2, 3)), expected, atol=1e-6)


@pytest.mark.skipif(not baselines.has_minterpolate(), reason="PyAV without minterpolate")
def test_minterpolate_follows_a_panning_picture():
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (16, 24, 1)).repeat(3, axis=2).astype(np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)  # [128, 192, 3]
    pan = np.stack([picture[:, 2 * i : 2 * i + 128] for i in range(25)])
    protocol = PROTOCOLS["fps60-2x"]
    inner = np.s_[:, 32:-32, 32:-32]
    errors = [
        (
            np.abs(guess[inner] - targets[inner] / 255).mean(),
            np.abs(blend[inner] - targets[inner] / 255).mean(),
        )
        for guess, blend, (_, targets) in zip(
            baselines.minterpolate(pan, protocol),
            baselines.average(pan, protocol),
            protocol.windows(pan),
        )
    ]
    assert len(errors) == 10
    found, blended = np.mean(errors, axis=0)
    assert found < 0.5 * blended
