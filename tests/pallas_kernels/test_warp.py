# SPDX-License-Identifier: Apache-2.0
"""Two images warped by predicted fields, against float64 NumPy."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from pallas_kernels.warp import xla as warp_xla
from tests.pallas_kernels.oracles import (
    assert_slopes,
    needs_interpreter,
    oracle_fields,
    oracle_sample,
)

# "reference" differs from "xla" only in its look-ups.
IMPLEMENTATIONS = ["xla", pytest.param("mosaic_gpu", marks=needs_interpreter)]
TIMES = np.array([0.25, 0.75])
UNIT = 3.0


def case(seed=0, batch=2, outputs=2, height=12, width=16, enlarged=1, fold=2):
    """Images, stored fields and a correction, in float64; the fields are those of whole images."""
    random = np.random.default_rng(seed)
    stored = (batch, outputs, height // enlarged, width // enlarged, 8)
    places = (batch, outputs, height // fold, width // fold, fold * fold, 8)
    return (
        random.random((batch, 2, height, width, 3)),
        random.uniform(-1, 1, stored),
        random.uniform(-1, 1, places),
    )


def where_it_runs(implementation):
    return pk.interpret() if implementation == "mosaic_gpu" else contextlib.nullcontext()


def run(operation, images, fields, *, implementation, **options):
    """An operation, compiled as in use; arrays among the options are arguments."""
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in options.items() if name not in arrays}

    def call(images, fields, arrays):
        fixed = {"unit": UNIT, "implementation": implementation}
        return operation(images, fields, TIMES, **arrays, **options, **fixed)

    given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (images, fields, arrays))
    with where_it_runs(implementation):
        return np.asarray(jax.jit(call)(*given), np.float64)


def displaced(images, fields, first_row=0):
    """Both images at the fields' displacements, apart: [batch, output, 2, height, width, 3]."""
    reach = np.stack([TIMES, 1 - TIMES], axis=-1)[:, :, None, None, None] * UNIT
    displacements = np.stack([fields[..., 3:5], fields[..., 5:7]], axis=2) * reach
    displacements[..., 1] += first_row
    ones = np.ones((*fields.shape[:2], 1, *fields.shape[2:4]))
    both = [
        oracle_sample(images[:, n : n + 1], displacements[:, :, n : n + 1], ones) for n in (0, 1)
    ]
    return np.stack(both, axis=2)


def mixed(images, fields, first_row=0):
    warped = displaced(images, fields, first_row)
    weight = 1 / (1 + np.exp(-fields[..., 7]) * (TIMES / (1 - TIMES))[:, None, None])
    weight = weight[..., None]
    return weight * warped[:, :, 0] + (1 - weight) * warped[:, :, 1] + fields[..., :3]


def unfolded(x, fold):
    batch, outputs, height, width, _, channels = x.shape
    x = x.reshape(batch, outputs, height, width, fold, fold, channels).swapaxes(3, 4)
    return x.reshape(batch, outputs, height * fold, width * fold, channels)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "reference"])
@pytest.mark.parametrize(
    ("enlarged", "fold", "width"), [(1, 1, 16), (2, 2, 16), (2, 4, 16), (1, 2, 48), (2, 2, 40)]
)
def test_a_convolution_sees_both_images_warped_and_the_fields(
    implementation, enlarged, fold, width
):
    images, fields, _ = case(batch=1, enlarged=enlarged, width=width)
    half = implementation == "mosaic_gpu"
    made = run(
        pk.warp, images, fields, implementation=implementation, enlarged=enlarged, fold=fold,
        middle=0.5, dtype="float16" if half else "float32",
    )  # fmt: skip
    assert made[..., 14:].size == 0 or np.abs(made[..., 14:]).max() == 0
    full = oracle_fields(fields, enlarged)
    warped = displaced(images, full) - 0.5
    expected = np.concatenate([warped[:, :, 0], warped[:, :, 1], full], axis=-1)
    assert np.abs(unfolded(made[..., :14], fold) - expected).max() < (1e-3 if half else 1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("enlarged", "fold", "width"), [(1, 2, 16), (4, 1, 16), (2, 2, 48), (4, 4, 40), (3, 1, 36)]
)
def test_images_are_mixed_by_the_corrected_fields(implementation, enlarged, fold, width):
    images, fields, correction = case(enlarged=enlarged, fold=fold, width=width)
    full = oracle_fields(fields, enlarged)
    given = {"implementation": implementation, "enlarged": enlarged}
    made = run(pk.warp_and_mix, images, fields, **given)
    assert np.abs(made - mixed(images, full)).max() < 1e-5
    made = run(pk.warp_and_mix, images, fields, correction=correction, **given)
    assert np.abs(made - mixed(images, full + unfolded(correction, fold))).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_image_is_mixed_from_further_pairs_of_look_ups(implementation):
    images, fields, correction = case(enlarged=2)
    further = np.random.default_rng(1).uniform(-1, 1, (*correction.shape[:-1], 12))
    correction = np.concatenate([correction, further], axis=-1)
    made = run(
        pk.warp_and_mix, images, fields, enlarged=2, pairs=3, implementation=implementation,
        # Of 24 values, 20 count.
        correction=np.pad(correction, ((0, 0),) * 5 + ((0, 4),), constant_values=9.0),
    )  # fmt: skip
    first = oracle_fields(fields, 2) + unfolded(correction[..., :8], 2)
    logit = first[..., 7] + np.log((1 - TIMES) / TIMES)[:, None, None]
    colours, logits = [displaced(images, first)], [np.stack([logit, 0 * logit], axis=2)]
    for pair in np.split(unfolded(further, 2), 2, axis=-1):
        moved = np.concatenate([first[..., :3], first[..., 3:7] + pair[..., :4]], axis=-1)
        colours.append(displaced(images, moved))
        logits.append(np.stack([logit + pair[..., 4], pair[..., 5]], axis=2))
    powers = np.exp(np.concatenate(logits, axis=2))[..., None]
    total = (powers * np.concatenate(colours, axis=2)).sum(axis=2) / powers.sum(axis=2)
    assert np.abs(made - first[..., :3] - total).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pixels_to_keep_are_the_blend_in_place(implementation):
    images, fields, _ = case()
    keep = np.random.default_rng(1).random((2, 1, 12, 16, 1))
    keep[:, :, :2], keep[:, :, 2:4] = 0.0, 1.0
    made = run(pk.warp_and_mix, images, fields, keep=keep, implementation=implementation)
    share = TIMES[:, None, None, None]
    blend = images[:, :1] * (1 - share) + images[:, 1:] * share
    expected = (1 - keep) * mixed(images, fields) + keep * blend
    assert np.abs(made - expected).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("enlarged", [2, 4])
@pytest.mark.parametrize(("top", "height"), [(0, 7), (3, 9), (4, 8), (7, 13)])
def test_an_output_may_begin_and_end_at_any_row(implementation, enlarged, top, height):
    images, fields, _ = case(height=20, width=40, enlarged=enlarged)
    whole = mixed(images, oracle_fields(fields, enlarged))
    part = run(
        pk.warp_and_mix, images, fields, enlarged=enlarged, top=top, height=height,
        implementation=implementation,
    )  # fmt: skip
    assert np.abs(part - whole[:, :, top : top + height]).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_stripe_of_the_output_is_that_of_whole_images(implementation):
    images, fields, correction = case(height=20, enlarged=2)
    keep = np.random.default_rng(1).random((2, 1, 20, 16, 1))
    given = {"keep": keep, "implementation": implementation, "enlarged": 2}
    whole = run(pk.warp_and_mix, images, fields, correction=correction, **given)
    part = run(
        pk.warp_and_mix, images, fields[:, :, 2:8], correction=correction[:, :, 2:8],
        first_row=4, top=2, height=8, **given,
    )  # fmt: skip
    # Rows 6 to 13; the fields' own ends are farther away than enlargement reads.
    assert np.abs(part - whole[:, :, 6:14]).max() < 1e-5
    seen, moved = (
        run(pk.warp, images, x, first_row=row, enlarged=2, dtype="float16", **given_half)
        for x, row, given_half in (
            (fields, 0, {"implementation": implementation}),
            (fields[:, :, 2:8], 4, {"implementation": implementation}),
        )
    )
    assert np.abs(moved[:, :, 2:-2] - seen[:, :, 6:14]).max() < 2e-3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_maps_are_refined_by_enlarged_corrections(implementation):
    random = np.random.default_rng(0)
    shapes = [(2, 2, height, width, 8) for height, width in ((16, 24), (4, 6), (8, 12), (16, 24))]
    maps, *corrections = (random.normal(size=shape) for shape in shapes)
    given = [jnp.asarray(each, jnp.float32) for each in (maps, *corrections)]
    with where_it_runs(implementation):
        made = jax.jit(functools.partial(pk.refine, implementation=implementation))(*given)
    expected = maps + sum(oracle_fields(x, n) for x, n in zip(corrections, (4, 2, 1)))
    assert np.abs(made - expected).max() < 1e-5


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "reference"])
def test_infinite_values_are_clamped_and_a_nan_stays_where_it_is_read(implementation):
    images, fields, _ = case(batch=1)
    usual = run(pk.warp_and_mix, images, fields, implementation=implementation)
    far, endless = fields.copy(), fields.copy()
    far[:, 0, 2, 3, 3:7], endless[:, 0, 2, 3, 3:7] = 1e6, np.inf
    far[:, 0, 2, 4, 3:7], endless[:, 0, 2, 4, 3:7] = -1e6, -np.inf
    far[:, 1, 7, 9, 7], endless[:, 1, 7, 9, 7] = 1e4, np.inf  # the first image alone
    made = run(pk.warp_and_mix, images, endless, implementation=implementation)
    assert np.abs(made - mixed(images, far)).max() < 1e-5
    # A field that is no number spoils its pixel alone.
    spoilt = fields.copy()
    spoilt[0, 1, 5, 6, 4] = spoilt[0, 0, 4, 4, 7] = np.nan
    made = run(pk.warp_and_mix, images, spoilt, implementation=implementation)
    where = np.isnan(made).any(axis=-1)
    assert np.argwhere(where).tolist() == [[0, 0, 4, 4], [0, 1, 5, 6]]
    assert np.abs(made - usual)[~where].max() == 0
    # And a pixel of an image, those that read it.
    images[0, 1, 6, 7, 0] = np.nan
    made = run(pk.warp_and_mix, images, fields, implementation=implementation)
    readers = np.isnan(displaced(images, fields)[:, :, 1]).any(axis=-1)
    assert 0 < readers.sum() < readers.size / 10
    np.testing.assert_array_equal(np.isnan(made).any(axis=-1), readers)
    assert np.abs(made - usual)[~readers].max() == 0


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "reference"])
def test_images_may_be_larger_than_the_fields_that_look_into_them(implementation):
    images, _, _ = case(height=24, width=40)
    _, fields, _ = case(seed=1)
    fields[..., 3:7] *= 8  # beyond the fields' borders, and beyond those of the images
    made = run(
        pk.warp_and_mix, images, fields, first_row=5, height=10, top=1,
        implementation=implementation,
    )  # fmt: skip
    # The oracle clamps to the size of its fields: as many fields, of which only ours are compared.
    beyond = ((0, 0), (0, 0), (5, 7), (0, 24), (0, 0))
    expected = mixed(images, np.pad(fields, beyond))[:, :, 6:16, :16]
    assert np.abs(made - expected).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pairs_of_the_fields_that_are_not_asked_for_do_not_count(implementation):
    images, fields, correction = case()
    more = np.concatenate([fields, np.full((*fields.shape[:-1], 6), 0.5)], axis=-1)
    for given in ({}, {"correction": correction}):
        made = run(pk.warp_and_mix, images, more, implementation=implementation, **given)
        full = fields + (unfolded(correction, 2) if given else 0)
        assert np.abs(made - mixed(images, full)).max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_correction_may_be_the_convolution_that_computes_it(implementation):
    images, fields, _ = case()
    random = np.random.default_rng(4)
    dtype = "bfloat16" if implementation == "mosaic_gpu" else "float32"
    looked = pk.Convolved(
        *(
            jnp.asarray(random.normal(size=shape) / 4, dtype)
            for shape in ((4, 6, 8, 16), (3, 3, 16, 4 * 8), (4 * 8,))
        )
    )

    def loss(fields, looked, implementation):
        made = pk.warp_and_mix(
            jnp.asarray(images, jnp.float32), fields, TIMES, correction=looked, unit=UNIT,
            implementation=implementation,
        )  # fmt: skip
        return (made * jnp.cos(jnp.arange(made.size)).reshape(made.shape)).sum(), made

    both = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    made = jax.jit(lambda *given: loss(*given, implementation)[1])
    given = jnp.asarray(fields, jnp.float32), looked
    with where_it_runs(implementation):
        mine, (ours, _) = made(*given), both(*given, implementation)
    convolved = pk.conv2d(*(x.astype(jnp.float32) for x in looked), implementation="reference")
    correction = unfolded(np.asarray(convolved, np.float64).reshape(2, 2, 6, 8, 4, 8), 2)
    # In float16 the correction is off by 1/2048 of its values, which are below 4.
    assert np.abs(mine - mixed(images, fields + correction)).max() < (
        8e-3 if implementation == "mosaic_gpu" else 1e-5
    )
    wide = given[0], jax.tree.map(lambda x: x.astype(jnp.float32), looked)
    theirs, _ = both(*wide, "reference")
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert np.abs(np.asarray(one, np.float64) - other).max() < 0.02 * np.abs(other).max()


def test_a_single_row_or_column_is_enlarged_to_equal_ones():
    maps = np.random.default_rng(0).normal(size=(1, 1, 1, 5, 8))
    for small in (maps, maps.swapaxes(2, 3)):
        size = [3 * n for n in small.shape[2:4]]
        zeros = jnp.zeros((1, 1, *size, 8))
        made = pk.refine(zeros, jnp.asarray(small, jnp.float32), implementation="xla")
        assert np.abs(made - oracle_fields(small, 3)).max() < 1e-6
        axis = 2 + size.index(3)
        assert np.ptp(made, axis=axis).max() < 1e-6


def test_the_definitions_gradients_are_its_slopes():
    images, fields, correction = case(batch=1, height=4, width=6, enlarged=2)
    further = np.random.default_rng(1).uniform(-1, 1, (*correction.shape[:-1], 6))
    correction = np.concatenate([correction, further], axis=-1)
    keep = np.random.default_rng(2).random((1, 1, 4, 6, 1))
    given = [images, fields, correction, keep]

    def loss(images, fields, correction, keep):
        made = pk.warp_and_mix(
            images, fields, TIMES, correction=correction, keep=keep, pairs=2, enlarged=2,
            unit=UNIT, implementation="reference",
        )  # fmt: skip
        return (made * jnp.cos(jnp.arange(made.size)).reshape(made.shape)).sum()

    assert_slopes(loss, given)


@needs_interpreter
@pytest.mark.parametrize("operation", [pk.warp, pk.warp_and_mix])
def test_gradients_are_those_of_the_definition(operation):
    images, fields, correction = case(enlarged=2)
    options = {"fold": 2, "dtype": jnp.float16} if operation is pk.warp else {}

    def loss(fields, correction, implementation):
        more = {"correction": correction} if operation is pk.warp_and_mix else {}
        made = operation(
            jnp.asarray(images, jnp.float32), fields, TIMES, enlarged=2, unit=UNIT,
            implementation=implementation, **more, **options,
        )  # fmt: skip
        weights = jnp.cos(jnp.arange(made[..., :14].size)).reshape(made[..., :14].shape)
        return (made[..., :14].astype(jnp.float32) * weights).sum()

    given = tuple(jnp.asarray(x, jnp.float32) for x in (fields, correction))
    with pk.interpret():
        ours = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(*given, "mosaic_gpu")
    expected = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(*given, "reference")
    for mine, theirs in zip(ours, expected):
        assert np.abs(mine - theirs).max() < 0.02 * max(1.0, np.abs(theirs).max())


def test_the_kernel_refuses_what_it_cannot_do_and_says_why():
    images, fields, _ = (jnp.asarray(x, jnp.float32) for x in case())
    with pk.assume_hopper(), pytest.raises(NotImplementedError, match="writes bfloat16"):
        pk.warp(images, fields, TIMES, implementation="mosaic_gpu")
    half = fields.astype(jnp.bfloat16)
    with pk.assume_hopper(), pytest.raises(NotImplementedError, match="float32 throughout"):
        pk.warp_and_mix(images, half, TIMES, implementation="mosaic_gpu")
    with pytest.raises(ValueError, match="fields have 14 values; `warp` looks up one pair"):
        pk.warp(images, jnp.ones((2, 2, 12, 16, 14)), TIMES)
    looked = pk.Convolved(jnp.ones((4, 6, 8, 16)), jnp.ones((3, 3, 16, 30)), None)
    with pytest.raises(ValueError, match="channels must be the values of whole pixels"):
        pk.warp_and_mix(images, fields, TIMES, correction=looked)
    with pytest.raises(ValueError, match="must divide both"):
        pk.warp(images, fields, TIMES, fold=5)
    with pytest.raises(ValueError, match="places must be the pixels"):
        pk.warp_and_mix(images, fields, TIMES, correction=jnp.zeros((2, 2, 6, 8, 1, 8)))
    with pytest.raises(ValueError, match="2 pairs need 14 values"):
        pk.warp_and_mix(images, fields, TIMES, pairs=2)
    with pytest.raises(ValueError, match="whole number of times larger"):
        pk.refine(fields, fields[:, :, :5])
    with pytest.raises(ValueError, match=r"have the shape .* 6 more values for each further pair"):
        pk.warp_and_mix(images, jnp.ones((2, 2, 12, 16, 9)), TIMES)
    with pytest.raises(ValueError, match="`keep` needs fields as wide as the images"):
        pk.warp_and_mix(images, fields[:, :, :, :8], TIMES, keep=jnp.ones((2, 1, 12, 16, 1)))
    with pytest.raises(ValueError, match="5×6 pixels; 16×12 must be a whole number"):
        pk.refine(fields, fields[:, :, :6, :5])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_enlargement_by_convolution_interpolates_between_pixel_centres(scale, size):
    maps = np.random.default_rng(0).random((1, 2, *size, 8)).astype(np.float32)
    large = warp_xla._pixels(jnp.asarray(maps), scale)
    # Every position has its pixels beside each other; put them where they belong.
    height, width = size
    apart = np.asarray(large.fields).reshape(2, height, width, scale, scale, 8)
    actual = apart.transpose(0, 1, 3, 2, 4, 5).reshape(2, height * scale, width * scale, 8)
    for image, small in zip(actual, maps[0]):
        rows = [np.clip((np.arange(n * scale) + 0.5) / scale - 0.5, 0, n - 1) for n in size]
        for at in np.ndindex(*image.shape[:2]):
            y, x = rows[0][at[0]], rows[1][at[1]]
            low = int(y), int(x)
            high = min(low[0] + 1, height - 1), min(low[1] + 1, width - 1)
            top = small[low] * (1 - x % 1) + small[low[0], high[1]] * (x % 1)
            bottom = small[high[0], low[1]] * (1 - x % 1) + small[high] * (x % 1)
            np.testing.assert_allclose(image[at], top * (1 - y % 1) + bottom * (y % 1), atol=1e-6)
