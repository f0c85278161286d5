# SPDX-License-Identifier: Apache-2.0
"""Between stored pictures and RGB: the formulas of ITU-T H.273, and back without a trace."""

from __future__ import annotations

import av
import numpy as np
import pytest

from flavr_jax.video.pixels.colour import RGB, SRGB, Colour, from_rgb, repacked, standard, to_rgb
from flavr_jax.video.pixels.layout import Layout

# H.273 matrix → (Kr, Kb) of ITU-R BT.709, BT.601 and BT.2020.
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
LEFT, CENTRE, TOP_LEFT = 1, 2, 3
THERE_AND_BACK = [
    *((f"yuv{chroma}p{bits}", LEFT) for chroma in (420, 422, 444) for bits in ("", "10le", "12le")),
    ("yuva420p", LEFT), ("yuva444p10le", LEFT), ("yuv440p", LEFT),
    ("yuv420p", CENTRE), ("yuv420p10le", TOP_LEFT),
]  # fmt: skip


def arrays(frame):
    kind = np.uint8 if max(c.bits for c in frame.format.components) <= 8 else np.dtype("<u2")
    return [
        np.frombuffer(memoryview(p), kind).reshape(p.height, -1)[:, : p.width] for p in frame.planes
    ]


def picture(pix_fmt, size=(38, 26), *, full=False, luma=(60, 180), chroma=24):
    """Random samples whose colours all exist in RGB."""
    random = np.random.default_rng(0)
    frame = av.VideoFrame(*size, pix_fmt)
    bits = max(c.bits for c in frame.format.components)
    scale = 2 ** (bits - 8)
    for index, plane in enumerate(arrays(frame)):
        low, high = (
            luma if index == 0
            else (128 - chroma, 128 + chroma) if index < 3
            else (0, 256)
        )  # fmt: skip
        plane[:] = random.integers(low * scale, high * scale, plane.shape)
    return frame


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("bits", [8, 10])
def test_rgb_follows_the_formulas(bits, matrix, full):
    pix_fmt = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    frame = picture(pix_fmt)
    y, u, v = (plane.astype(np.float64) / 2 ** (bits - 8) for plane in arrays(frame))
    if full:
        top = (2**bits - 1) / 2 ** (bits - 8)
        y, u, v = y / top, (u - 128) / top, (v - 128) / top
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    kr, kb = WEIGHTS[matrix]
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    most = 255 if bits == 8 else 65535
    expected = most * np.stack([red, green, blue], axis=-1)
    pixels = to_rgb(frame, Colour(matrix, 2 if full else 1))
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    # 16-bit values are computed in float32, whose last place is 2⁻⁸ of a level there.
    assert np.abs(pixels - expected).max() <= (0.501 if bits == 8 else 0.52)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(("pix_fmt", "siting"), THERE_AND_BACK)
def test_there_and_back_luma_and_alpha_are_exact_and_chroma_within_one(pix_fmt, full, siting):
    frame = picture(pix_fmt)
    colour = Colour(1, 2 if full else 1, siting=siting)
    back = from_rgb(to_rgb(frame, colour), pix_fmt, colour)
    errors = [
        np.abs(a.astype(int) - b).max() for a, b in zip(arrays(frame), arrays(back), strict=True)
    ]
    assert errors[0] == 0
    assert errors[3:] == [0] * len(errors[3:])
    # RGB of 8 bits is too coarse for all of 8-bit chroma; RGB of 16 bits is not for 10 and 12.
    assert max(errors[1:3]) <= (1 if Layout.of(pix_fmt).bits == 8 else 0)


@pytest.mark.parametrize("size", [(37, 25), (1, 1), (2, 3)])
def test_odd_sizes_come_back_too(size):
    frame = picture("yuv420p", size, chroma=10)
    back = from_rgb(to_rgb(frame, Colour(1, 1)), "yuv420p", Colour(1, 1))
    for a, b in zip(arrays(frame)[:1], arrays(back)[:1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("siting", "offset"), [(LEFT, (0.0, 0.5)), (CENTRE, (0.5, 0.5)), (TOP_LEFT, (0.0, 0.0))]
)
def test_chroma_lies_where_its_tag_says(siting, offset):
    frame = av.VideoFrame(64, 48, "yuv420p12le")
    luma, u, v = arrays(frame)
    y, x = np.mgrid[0:24, 0:32]
    luma[:], v[:] = 2048, 2048
    u[:] = 1600 + 10 * x + 6 * y
    pixels = to_rgb(frame, Colour(1, 2, siting=siting)).astype(np.float64)
    measured = 2048 + (pixels[..., 2] / 65535 - 2048 / 4095) / 1.8556 * 4095
    rows, columns = np.mgrid[0:48, 0:64]
    expected = 1600 + 10 * (columns - offset[0]) / 2 + 6 * (rows - offset[1]) / 2
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(measured - expected)[inner].max() < 0.1


def test_what_rgb_cannot_show_is_clipped():
    frame = picture("yuv444p", luma=(236, 255), chroma=1)
    back = from_rgb(to_rgb(frame, Colour(1, 1)), "yuv444p", Colour(1, 1))
    assert arrays(back)[0].max() == 235


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gray"])
def test_with_headroom_what_is_beyond_black_and_white_comes_back(pix_fmt):
    frame = picture(pix_fmt, luma=(4, 252), chroma=2)
    colour = Colour(1, 1).with_headroom()
    back = from_rgb(to_rgb(frame, colour), pix_fmt, colour)
    errors = [np.abs(a.astype(int) - b).max() for a, b in zip(arrays(frame), arrays(back))]
    assert errors[0] == 0
    assert max(errors) <= 1


def test_headroom_is_taken_off_for_displays():
    frame = picture("yuv444p")
    wide, plain = Colour(1, 1).with_headroom(), Colour(1, 1)
    shown = standard(to_rgb(frame, wide), wide).astype(int)
    assert np.abs(shown - to_rgb(frame, plain)).max() <= 1
    assert not Colour(1, 2).with_headroom().headroom
    assert not SRGB.with_headroom().headroom


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray12le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_grey_comes_back(pix_fmt, full):
    frame, colour = picture(pix_fmt), Colour(1, 2 if full else 1)
    pixels = to_rgb(frame, colour)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    np.testing.assert_array_equal(arrays(from_rgb(pixels, pix_fmt, colour))[0], arrays(frame)[0])


@pytest.mark.parametrize(
    "pix_fmt", ["gbrp", "gbrp10le", "gbrp12le", "gbrap10le", "rgb48le", "bgra"]
)
def test_rgb_comes_back(pix_fmt):
    frame = av.VideoFrame.from_ndarray(
        np.random.default_rng(0).integers(0, 65536, (26, 38, 4), dtype=np.uint16), "rgba64le"
    ).reformat(format=pix_fmt)
    back = from_rgb(to_rgb(frame, SRGB), pix_fmt, SRGB)
    np.testing.assert_array_equal(back.to_ndarray(), frame.to_ndarray())


@pytest.mark.parametrize(
    ("planar", "packed"),
    [
        ("yuv420p", "nv12"), ("yuv420p", "yuvj420p"), ("yuv422p", "yuyv422"), ("yuv422p", "nv16"),
        ("yuv420p10le", "p010le"), ("yuv422p10le", "p210le"), ("yuv420p10le", "yuv420p10be"),
        ("gbrp", "rgb24"), ("gbrp", "bgr0"), ("gbrap", "bgra"), ("gbrp16le", "rgb48be"),
    ],
)  # fmt: skip
def test_packing_changes_no_value(planar, packed):
    frame = picture(planar, (64, 48), luma=(0, 256), chroma=128)
    back = repacked(repacked(frame, packed), planar)
    for a, b in zip(arrays(frame), arrays(back), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("bits", "pix_fmt"), [(8, "yuva420p"), (16, "yuva444p10le")])
def test_alpha_is_added_as_opaque_and_dropped_as_asked(bits, pix_fmt):
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = np.full((4, 4, 3), 40 * 2 ** (bits - 8), kind)
    added = from_rgb(pixels, pix_fmt, Colour(1, 1))
    assert set(arrays(added)[3].ravel()) == {255 if bits == 8 else 1023}
    with_alpha = to_rgb(added, Colour(1, 1))
    dropped = to_rgb(from_rgb(with_alpha, "yuv444p", Colour(1, 1)), Colour(1, 1))
    assert with_alpha.shape == (4, 4, 4)
    assert dropped.shape == (4, 4, 3)


def test_rgb_that_becomes_yuv_is_tagged_by_its_size():
    assert Colour(RGB, 2, 1, 13).stored_in("yuv420p", 480) == Colour(5, 1, 1, 13)
    assert Colour(RGB, 2, 1, 13).stored_in("yuv420p", 720) == Colour(1, 1, 1, 13)
    assert Colour(9, 1, 9, 16).stored_in("yuv420p10le", 2160) == Colour(9, 1, 9, 16)
    assert Colour(9, 1, 9, 16).stored_in("gbrp10le", 2160) == Colour(RGB, 2, 9, 16)
