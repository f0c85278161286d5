# SPDX-License-Identifier: Apache-2.0
"""Use ``pallas_kernels`` for a 3-D network of your own: here a small denoiser of video clips.

``python examples/denoise_video.py`` trains it for 60 steps on drawn clips, prints the error before
and after, and lists which implementation each operation takes on this machine. Nothing here depends
on FLAVR: the parameters are a dict of arrays, and JAX differentiates the operations.
"""

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as pk

CHANNELS = 16  # the Hopper kernels take multiples of 16; multiples of 64 are fastest


def init(seed: int = 0) -> dict[str, jax.Array]:
    """Draw the parameters: a normal distribution of variance 2 / fan-in."""
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> jax.Array:
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        return jnp.asarray(rng.standard_normal(shape, np.float32) * deviation)

    return {
        "first": kernel(3, 3, 3, 3, CHANNELS),
        "down": kernel(3, 3, 3, CHANNELS, CHANNELS),
        "gate": kernel(CHANNELS, CHANNELS),
        "up": kernel(3, 4, 4, CHANNELS, CHANNELS),
        "up_gate": kernel(CHANNELS, CHANNELS),
        "last": 0.1 * kernel(3, 3, 3, 2 * CHANNELS, 3),
        "bias": jnp.zeros(CHANNELS),
    }


def denoise(params: dict[str, jax.Array], clips: jax.Array) -> jax.Array:
    """Denoise clips ``[batch, time, height, width, 3]``; height and width must be even."""
    bias = params["bias"]
    fine = pk.conv3d(clips, params["first"], bias, activation="relu")
    coarse = pk.conv3d(fine, params["down"], stride=(1, 2, 2), activation="relu")
    # Convolution, gate, residual and activation are one pass over memory.
    coarse = pk.gated_conv3d(
        coarse, params["down"], bias, params["gate"], bias, residual=coarse, activation="relu"
    )
    up = pk.gated_conv3d_transpose(
        coarse, params["up"], bias, params["up_gate"], bias, activation="relu"
    )
    # Two inputs are convolved as if concatenated, without a copy.
    return clips + pk.conv3d((up, fine), params["last"]).values


def draw_clips(count: int, seed: int, size: int = 16) -> tuple[jax.Array, jax.Array]:
    """Draw clips of 4 frames with a moving wave, and the same clips with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count, 1, 1, 1))
    time = np.arange(4)[None, :, None, None]
    wave = np.sin(0.5 * (x * np.cos(angle) + y * np.sin(angle)) + phase + 0.4 * time)
    clean = np.repeat(0.5 + 0.4 * wave[..., None], 3, axis=-1)
    noisy = clean + 0.2 * rng.standard_normal(clean.shape)
    return jnp.asarray(clean, jnp.float32), jnp.asarray(noisy, jnp.float32)


def error(params: dict[str, jax.Array], clean: jax.Array, noisy: jax.Array) -> jax.Array:
    """Mean squared error after denoising."""
    return jnp.mean((denoise(params, noisy) - clean) ** 2)


@jax.jit
def step(
    params: dict[str, jax.Array], clean: jax.Array, noisy: jax.Array, rate: float
) -> dict[str, jax.Array]:
    """One step of gradient descent, with each gradient scaled to the size of its parameter."""
    gradients = jax.grad(error)(params, clean, noisy)
    return jax.tree.map(
        lambda p, g: p - rate * (1e-2 + jnp.linalg.norm(p)) * g / (1e-12 + jnp.linalg.norm(g)),
        params,
        gradients,
    )


def main(steps: int = 60) -> tuple[float, float]:
    """Train, and return the error on new clips before and after."""
    params, test = init(), draw_clips(4, seed=1_000_000)
    measure = jax.jit(error)
    before = float(measure(params, *test))
    for number in range(steps):
        rate = 0.05 * (1 - number / steps)
        params = step(params, *draw_clips(4, seed=number), rate=rate)
    after = float(measure(params, *test))
    print(f"mean squared error {before:.4f} → {after:.4f}; of the noise alone 0.0400")
    for choice in pk.explain(denoise, params, test[1]):
        print(choice)
    return before, after


if __name__ == "__main__":
    main()
