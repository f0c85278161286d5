# SPDX-License-Identifier: Apache-2.0
"""Make frames between the frames of a NumPy array, as in a notebook.

``python examples/interpolate_array.py`` draws a disc that moves to the right, makes seven frames
in every interval and prints where the disc is in each of them. The position advances evenly in the
middle interval, and less so in the first and the last one, which lack an input on one side.
"""

import numpy as np

import flavr_jax


def moving_disc(n_frames: int = 4, size: int = 64, speed: float = 6.0) -> np.ndarray:
    """Draw a white disc on grey that moves ``speed`` pixels a frame: uint8 [n, size, size, 3]."""
    y, x = np.mgrid[:size, :size]
    centres = size / 2 + speed * (np.arange(n_frames) - (n_frames - 1) / 2)
    distance = np.hypot(x - centres[:, None, None], y - size / 2)
    light = np.clip(size / 6 - distance + 0.5, 0, 1)  # 1 inside; the edge is one pixel wide
    return np.repeat((80 + 160 * light[..., None]).astype(np.uint8), 3, axis=-1)


def disc_position(frames: np.ndarray) -> np.ndarray:
    """Measure the horizontal centre of the disc in each frame, in pixels."""
    # The background has the value 80: subtract more, so that it weighs nothing in the mean.
    light = np.clip(frames[..., 1].astype(float) - 100, 0, None)
    return (light * np.arange(frames.shape[2])).sum((1, 2)) / light.sum((1, 2))


def main() -> np.ndarray:
    """Interpolate the disc by 8 and return all frames."""
    frames = moving_disc()
    interpolator = flavr_jax.load()
    smooth = interpolator(frames, factor=8)
    print(f"{frames.shape} → {smooth.shape} on {interpolator.runs_on}")
    print("position of the disc:", np.round(disc_position(smooth), 1))
    return smooth


if __name__ == "__main__":
    main()
