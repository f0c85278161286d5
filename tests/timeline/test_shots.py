# SPDX-License-Identifier: Apache-2.0
import numpy as np

from flavr_jax.timeline import shots


def scene(seed, n_frames):
    """A picture of blocks that moves a little."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return [picture[:, shift : shift + 128] for shift in range(n_frames)]


def test_frames_that_begin_a_new_shot_are_numbered():
    frames = [*scene(0, 14), *scene(1, 9), *scene(2, 11)]
    assert list(shots.find_cuts(frames)) == [14, 23]


def test_a_single_shot_has_no_cuts():
    assert list(shots.find_cuts(scene(0, 20))) == []
    assert list(shots.find_cuts([])) == []
