# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flavr_jax.data.synthetic import textures


def ramp(size=8):
    """A texture whose red grows by 12/255 a column and green by 12/255 a row; coverage 1."""
    x, y = jnp.meshgrid(jnp.arange(size), jnp.arange(size))
    colour = jnp.stack([12 * x, 12 * y, jnp.zeros_like(x)], axis=-1) / 255.0
    return textures.pack(colour, jnp.ones((size, size)))


def at(u, v, *, mirror=False):
    values = textures.sample(ramp(), jnp.array([[u]]), jnp.array([[v]]), mirror=jnp.asarray(mirror))
    return [255 * float(value[0, 0]) for value in values]


@pytest.mark.parametrize(("u", "v"), [(0.5, -0.5), (0.0, 0.0), (-1.25, 1.75)])
def test_a_ramp_is_looked_up_between_texels_to_its_rounding(u, v):
    red, green, blue, alpha = at(u, v)
    assert red == pytest.approx(12 * (3.5 + u), abs=1.0)
    assert green == pytest.approx(12 * (3.5 + v), abs=1.0)
    assert (blue, alpha) == (0.0, pytest.approx(255.0))


def test_a_mirrored_texture_goes_on_as_its_mirror_image():
    assert at(3.5 + 2.0, 0.0, mirror=True) == pytest.approx(at(3.5 - 1.0, 0.0), abs=1e-3)
    assert at(-3.5 - 2.0, 0.0, mirror=True) == pytest.approx(at(-3.5 + 1.0, 0.0), abs=1e-3)


def test_an_object_goes_on_as_its_border():
    assert at(100.0, 0.0) == pytest.approx(at(3.75, 0.0), abs=1e-3)


def test_fine_detail_outlasts_a_look_up_between_texels():
    # Stripes with 3 periods in 8 texels: 3/4 of the Nyquist frequency.
    wave = 0.5 + 0.4 * jnp.cos(2 * jnp.pi * 3 / 8 * jnp.arange(64))
    colour = jnp.broadcast_to(wave[None, :, None], (64, 64, 3))
    packed = textures.pack(colour, jnp.ones((64, 64)))
    for shift in (0.0, 0.25, 0.5):
        u = jnp.arange(-16.0, 16.0)[None] + 0.5 + shift
        red, *_ = textures.sample(packed, u, jnp.zeros_like(u), mirror=jnp.asarray(True))
        left = np.abs(np.fft.rfft(np.asarray(red)[0] - 0.5))[12] * 2 / 32 / 0.4
        # By hand, of Lanczos's and then linear interpolation: 0.80, 0.89, 0.67. Linear alone would
        # leave 0.38 at the last.
        assert left == pytest.approx({0.0: 0.80, 0.25: 0.89, 0.5: 0.67}[shift], abs=0.02)


@pytest.mark.parametrize(
    ("pixels_per_texel", "least", "most"), [(0.5, 0.0, 0.02), (0.75, 0.3, 0.6), (1.2, 0.8, 1.0)]
)
def test_detail_finer_than_pixels_is_taken_away(pixels_per_texel, least, most):
    wave = 0.5 + 0.5 * jnp.cos(2 * jnp.pi * 3 / 8 * jnp.arange(64))  # 3/4 of what texels can hold
    colour = jnp.broadcast_to(wave[None, :, None], (64, 64, 3))
    packed = textures.pack(colour, jnp.ones((64, 64)), pixels_per_texel)
    u = jnp.arange(-20.0, 20.0, 0.25)[None]
    red, _, _, covered = textures.sample(packed, u, jnp.zeros_like(u), mirror=jnp.asarray(True))
    assert least <= float(jnp.ptp(red)) <= most
    assert float(red.mean()) == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(covered, 1.0, atol=1e-6)


def test_objects_end_before_their_texture_does():
    keys = jax.random.split(jax.random.key(0), 64)
    relief = jax.random.normal(jax.random.key(1), (48, 48))
    draw = jax.jit(jax.vmap(lambda key: textures.coverage(key, relief, is_text=False)[0]))
    alpha = np.asarray(draw(keys))
    border = np.ones((48, 48), bool)
    border[2:-2, 2:-2] = False
    assert not alpha[:, border].any()
    assert alpha.max() == 1.0
    assert alpha.min() == 0.0
    assert 0.02 < alpha.mean() < 0.6


def test_smooth_textures_have_the_spectrum_of_natural_images():
    noise = np.asarray(jax.jit(textures._noise, static_argnums=1)(jax.random.key(3), 128)).astype(
        np.float64
    )
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128))) * 128
    coarse = power[(radius > 4) & (radius < 8)].mean()
    fine = power[(radius > 32) & (radius < 64)].mean()
    # Amplitude 1/f to 1/f²: three octaves cost a factor of 8² to 8⁴ in power.
    assert 8**1.5 < coarse / fine < 8**4.5


def test_some_textures_are_fine_patterns_of_full_contrast():
    keys = jax.random.split(jax.random.key(0), 128)
    draw = jax.jit(jax.vmap(lambda key: textures.colour(key, 48, None, real_share=0.0).colours))
    shade = np.asarray(draw(keys)).mean(axis=-1)
    steps = np.stack([np.abs(np.diff(shade, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)])
    # By hand, of stripes of black and white, 8 texels a period: 2 · 1 / 8.
    assert 1 <= (steps.max(axis=0) > 0.25).sum() < 16


def test_a_folder_of_images_becomes_squares_without_the_small_ones(tmp_path):
    (tmp_path / "below").mkdir()
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = (10, 20, 30)
    Image.fromarray(wide).save(tmp_path / "below/wide.png")
    Image.fromarray(wide[:8]).save(tmp_path / "small.png")
    found = textures.read_pictures(tmp_path, side=16)
    np.testing.assert_array_equal(found, np.broadcast_to([10, 20, 30], (1, 16, 16, 3)))
    with pytest.raises(FileNotFoundError, match="64×64 pixels or more"):
        textures.read_pictures(tmp_path, side=64)


def test_a_list_names_pictures_in_the_folder_of_its_name(tmp_path):
    (tmp_path / "some").mkdir()
    for name, grey in (("a.png", 1), ("b.png", 2), ("c.png", 3)):
        Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(tmp_path / "some" / name)
    listed = tmp_path / "some.jsonl"
    listed.write_text('{"file": "c.png", "licence": "CC0-1.0"}\n{"file": "a.png"}\n')
    np.testing.assert_array_equal(textures.read_pictures(listed, side=16)[:, 0, 0, 0], [3, 1])
    listed.write_text('{"file": "c.png"}\n{"name": "a.png"}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*some\.jsonl names no picture"):
        textures.read_pictures(listed, side=16)


def test_real_textures_come_from_photographs_at_their_share():
    frames, photographs = (jnp.full((1, 24, 32, 3), grey, jnp.uint8) for grey in (51, 204))
    draw = jax.jit(
        jax.vmap(
            lambda key: textures.colour(
                key, 16, frames, real_share=1.0, photographs=photographs, photograph_share=0.25
            ).colours.mean()
        )
    )
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
    assert np.isclose(found, 0.2, atol=1e-4).sum() + np.isclose(found, 0.8, atol=1e-4).sum() == 400
    assert 0.18 < np.isclose(found, 0.8, atol=1e-4).mean() < 0.32


def test_large_objects_fill_much_of_their_texture_and_outlines_follow_the_edge():
    keys = jax.random.split(jax.random.key(0), 32)
    relief = jnp.zeros((64, 64))
    draw = jax.jit(
        jax.vmap(
            lambda key: textures.coverage(key, relief, is_text=False, is_large=True, outline=2.0)
        )
    )
    alpha, ink = map(np.asarray, draw(keys))
    assert alpha.mean(axis=(1, 2)).min() > 0.2
    assert 0.02 < (ink * alpha).mean() < 0.2
    # No ink two texels and more inside: there the 5×5 neighbourhood is covered.
    around = np.lib.stride_tricks.sliding_window_view(alpha, (9, 9), axis=(1, 2))
    inner = (around > 0.99).all(axis=(3, 4))
    assert ink[:, 4:-4, 4:-4][inner].mean() < 0.02


def test_most_of_a_cartoon_is_flat():
    keys = jax.random.split(jax.random.key(0), 24)
    draw = jax.jit(
        jax.vmap(
            lambda key, outline: (
                textures.colour(key, 96, None, real_share=0.0, outline=outline).colours
            )
        )
    )
    for outline, low, high in ((2.0, 0.5, 1.0), (0.0, 0.0, 0.4)):
        steps = np.abs(np.diff(np.asarray(draw(keys, jnp.full(24, outline))), axis=2)).max(axis=-1)
        assert low < np.median((steps < 1e-4).mean(axis=(1, 2))) <= high
