# SPDX-License-Identifier: Apache-2.0
"""Pictures that go to a device and come back as planes have the values of the host's conversion."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.video.pixels.colour import (
    Colour,
    conversion,
    from_rgb,
    from_samples,
    picture,
    samples,
    to_rgb,
)
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.pixels.picture import Planar, resident

FORMATS = ["yuv420p", "yuv422p10le", "yuva420p", "nv12", "gray", "gbrp12le"]


def planes(frame):
    layout = Layout.of(frame.format.name)
    return [samples(plane, layout).copy() for plane in frame.planes]


def stored(pixel_format, size=(39, 27)):
    """A frame of smooth colours, with steep edges in it."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [np.sin(rows / 20 + k) * np.cos(columns / 25 - k) for k in range(4)]
    pixels = 0.5 + 0.4 * np.stack(waves, axis=-1)
    pixels[10:20, 10:20] = 0.9
    kind = np.uint8 if Layout.of(pixel_format).bits == 8 else np.uint16
    pixels = np.rint(pixels * np.iinfo(kind).max).astype(kind)
    return from_rgb(pixels, pixel_format, Colour(1, 1))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_planes_converted_on_a_device_are_the_pixels_of_the_host(pixel_format):
    frame = stored(pixel_format)
    uploaded = picture(frame, Colour(1, 1)).upload()
    np.testing.assert_array_equal(np.asarray(uploaded.pixels), to_rgb(frame, Colour(1, 1)))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_batch_converted_on_a_device_is_stored_as_each_frame_by_itself(pixel_format):
    frame = stored(pixel_format)
    pixels = to_rgb(frame, Colour(1, 1))
    batch = np.stack([pixels, pixels[::-1], pixels[:, ::-1]])
    how = conversion(Layout.of(pixel_format).planar, Colour(1, 1), frame.height)
    made = np.asarray(how.encode(jnp.asarray(batch)[None]))
    for one, values in zip(batch, made[0], strict=True):
        expected = from_rgb(one, pixel_format, Colour(1, 1))
        actual = from_samples(values, one.shape[:2], pixel_format, Colour(1, 1))
        for a, b in zip(planes(expected), planes(actual), strict=True):
            np.testing.assert_array_equal(a, b)


def test_nothing_is_converted_before_it_is_asked_for():
    frame = stored("yuv420p")
    expected = picture(frame, Colour(1, 1))

    def gather():
        gathered.append(1)
        return expected.planes

    gathered = []
    lazy = Planar(gather, expected.conversion, expected.size)
    assert lazy.shape == (27, 39, 3)
    assert not gathered
    np.testing.assert_array_equal(lazy.pixels, to_rgb(frame, Colour(1, 1)))
    assert lazy.pixels is lazy.pixels
    assert len(gathered) == 1


def test_several_pictures_are_on_their_way_before_one_is_converted(monkeypatch):
    # The conversion of the first would wait for its copy, and the others for that.
    converted, decode = [], Conversion.decode

    def counted(self, samples, size):
        converted.append(samples)
        return decode(self, samples, size)

    found = picture(stored("yuv420p"), Colour(1, 1))
    expected = found.pixels
    monkeypatch.setattr(Conversion, "decode", counted)
    residents = [found.upload() for _ in range(3)]
    assert not converted
    for sent in residents:
        np.testing.assert_array_equal(np.asarray(sent.pixels), expected)
        assert sent.pixels is sent.pixels
    assert len(converted) == 3
    assert all(isinstance(samples, jax.Array) for samples in converted)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_sample_of_the_pixels_needs_no_conversion_of_the_rest(pixel_format, step):
    found = picture(stored(pixel_format), Colour(1, 1))
    few, all_of_them = found.sampled(step), found.pixels[::step, ::step]
    assert few.shape == all_of_them.shape
    assert few.dtype == all_of_them.dtype
    levels = (few.astype(float) - all_of_them) * 255 / np.iinfo(few.dtype).max
    # Chroma is the nearest sample, not interpolated.
    assert np.abs(levels).mean() < 4
    if Layout.of(pixel_format).kind != "yuv":
        assert not levels.any()


def test_alpha_is_called_opaque_only_if_all_of_it_is():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    for value, opaque in ((255, True), (254, False)):
        pixels[3, 4, 3] = value
        assert resident(pixels).opaque == opaque
        frame = from_rgb(pixels, "yuva420p", Colour(1, 1))
        assert resident(picture(frame, Colour(1, 1))).opaque == opaque
    assert resident(pixels[..., :3]).opaque
