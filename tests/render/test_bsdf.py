# SPDX-License-Identifier: Apache-2.0
"""Scattering, against the textbook formulas in double precision NumPy and against quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.render import Material, Object, Scene, bsdf, world

RAYS = 4096
COLOUR = np.array([0.9, 0.5, 0.2])
evaluate, sample = jax.jit(bsdf.evaluate), jax.jit(bsdf.sample)


def made_of(kind, **more):
    """Materials of all rays, as a scene's object would have them."""
    stuff = Material(kind=kind, colour=tuple(COLOUR), **more)
    _, arrays = world.compile_scene(Scene((Object(material="m"),), {"m": stuff}))
    return world.Materials(*(jnp.repeat(row[0][..., None], RAYS, -1) for row in arrays.materials))


def directions(seed, *, above=True):
    vectors = np.random.default_rng(seed).normal(size=(3, RAYS))
    vectors /= np.linalg.norm(vectors, axis=0)
    vectors[2] = np.abs(vectors[2]) if above else vectors[2]
    return vectors


def tilted(degrees):
    """The same direction for all rays, so far from the normal."""
    angle = np.radians(degrees)
    return np.repeat([[np.sin(angle)], [0.0], [np.cos(angle)]], RAYS, axis=1)


def on_device(*vectors):
    return tuple(jnp.asarray(each, jnp.float32) for each in vectors)


def colours():
    return jnp.asarray(np.repeat(COLOUR[:, None], RAYS, axis=1), jnp.float32)


@functools.cache
def grid():
    """A uniform grid of pairs in [0, 1), which stand for random numbers."""
    side = round(RAYS**0.5)
    return tuple((np.mgrid[:side, :side].reshape(2, -1) + 0.5) / side)


def sampled(material, out, choice, *, enters=True):
    outside = jnp.full(RAYS, enters)
    return sample(
        material, colours(), *on_device(out), outside, *on_device(choice), on_device(*grid())
    )


def hemisphere():
    """Directions on a grid that is uniform in cosine and azimuth; each stands for 2π / RAYS."""
    cosine, turn = grid()
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(2 * np.pi * turn), sine * np.sin(2 * np.pi * turn), cosine])


def test_a_dull_surface_scatters_by_lambert():
    to, out = directions(0), directions(1)
    light, density = evaluate(made_of("diffuse"), colours(), *on_device(to, out))
    np.testing.assert_allclose(light, COLOUR[:, None] * to[2] / np.pi, rtol=1e-5)
    np.testing.assert_allclose(density, to[2] / np.pi, rtol=1e-5)


@pytest.mark.parametrize("kind", ["diffuse", "glossy", "metal"])
def test_no_light_goes_through_an_opaque_surface(kind):
    to = directions(0) * np.array([[1.0], [1.0], [-1.0]])
    light, density = evaluate(
        made_of(kind, roughness=0.5), colours(), *on_device(to, directions(1))
    )
    assert not np.any(light)
    assert not np.any(density)


@pytest.mark.parametrize("kind", ["glass", "emissive"])
def test_glass_and_lamps_scatter_no_light_that_is_sampled(kind):
    light, _ = evaluate(made_of(kind), colours(), *on_device(directions(0), directions(1)))
    assert not np.any(light)


def ggx(width, to, out):
    """Reflection × cosine of GGX with height-correlated masking, but for Fresnel's term."""
    half = to + out
    half /= np.linalg.norm(half, axis=0)
    tangent = np.sqrt(1 - half[2] ** 2) / half[2]
    slopes = 1 / (np.pi * width**2 * half[2] ** 4 * (1 + tangent**2 / width**2) ** 2)

    def shadow(direction):
        square = (1 - direction[2] ** 2) / direction[2] ** 2
        return (np.sqrt(1 + width**2 * square) - 1) / 2

    masking = 1 / (1 + shadow(to) + shadow(out))
    return slopes * masking / (4 * out[2]), (half * out).sum(axis=0)


@pytest.mark.parametrize("roughness", [0.3, 0.8])
def test_rough_metal_reflects_by_ggx_and_schlick(roughness):
    to, out = directions(0), directions(1)
    light, _ = evaluate(made_of("metal", roughness=roughness), colours(), *on_device(to, out))
    lobe, cosine = ggx(roughness**2, to, out)
    expected = lobe * (COLOUR[:, None] + (1 - COLOUR[:, None]) * (1 - cosine) ** 5)
    np.testing.assert_allclose(light, expected, rtol=2e-3, atol=1e-6)


def test_reflection_is_the_same_with_the_directions_exchanged():
    # Helmholtz's reciprocity holds for what is scattered without the cosine.
    material, (to, out) = made_of("metal", roughness=0.6), (directions(0), directions(1))
    forth, _ = evaluate(material, colours(), *on_device(to, out))
    back, _ = evaluate(material, colours(), *on_device(out, to))
    np.testing.assert_allclose(forth / to[2], back / out[2], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 50])
@pytest.mark.parametrize("kind", ["diffuse", "glossy", "metal"])
def test_a_density_is_that_of_the_directions_that_are_sampled(kind, degrees):
    material, out = made_of(kind, roughness=0.7), tilted(degrees)
    _, density = evaluate(material, colours(), *on_device(hemisphere(), out))
    choice = np.random.default_rng(2).permutation(RAYS) / RAYS
    found = np.asarray(sampled(material, out, choice).direction)
    # Shares of directions in each part of the hemisphere, by angle and by side.
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0)):
        for side in (-1, 1):
            of_grid = (
                (hemisphere()[2] >= low) & (hemisphere()[2] < high) & (side * hemisphere()[0] > 0)
            )
            expected = np.asarray(density)[of_grid].sum() * 2 * np.pi / RAYS
            inside = (found[2] >= low) & (found[2] < high) & (side * found[0] > 0)
            assert inside.mean() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind", ["diffuse", "glossy", "metal"])
def test_weights_are_what_is_scattered_over_the_density(kind):
    material, out = made_of(kind, roughness=0.7), directions(1)
    scattered = sampled(material, out, directions(3)[0] / 2 + 0.5)
    light, density = evaluate(material, colours(), scattered.direction, *on_device(out))
    likely = np.asarray(density) > 1e-3
    assert likely.mean() > 0.8
    np.testing.assert_allclose(scattered.density[likely], density[likely], rtol=1e-5)
    product = np.asarray(scattered.weight * density)
    np.testing.assert_allclose(product[:, likely], light[:, likely], rtol=1e-3, atol=1e-6)
    lengths = np.linalg.norm(scattered.direction, axis=0)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-4)


def test_a_mirror_reflects_at_the_same_angle_with_schlicks_colour():
    out = directions(1)
    found = sampled(made_of("metal"), out, np.full(RAYS, 0.5))
    np.testing.assert_allclose(found.direction, out * [[-1.0], [-1.0], [1.0]], atol=1e-5)
    expected = COLOUR[:, None] + (1 - COLOUR[:, None]) * (1 - out[2]) ** 5
    np.testing.assert_allclose(found.weight, expected, rtol=1e-4)
    assert np.isinf(found.density).all()


def fresnel(ior, cosine):
    """The reflected part of unpolarised light, from outside, by angles."""
    inside = np.arcsin(np.sqrt(1 - cosine**2) / ior)
    outside = np.arccos(cosine)
    across = (np.sin(outside - inside) / np.sin(outside + inside)) ** 2
    along = (np.tan(outside - inside) / np.tan(outside + inside)) ** 2
    return (across + along) / 2


@pytest.mark.parametrize("ior", [1.3, 1.5, 2.4])
def test_glass_reflects_the_share_of_fresnel_and_refracts_by_snell(ior):
    out, choice = directions(1), np.random.default_rng(2).uniform(size=RAYS)
    found = sampled(made_of("glass", ior=ior), out, choice)
    reflected = np.asarray(found.direction)[2] > 0
    share = fresnel(ior, out[2])
    clear = np.abs(choice - share) > 1e-4
    np.testing.assert_array_equal(reflected[clear], (choice < share)[clear])
    through = np.asarray(found.direction)[:, ~reflected]
    np.testing.assert_allclose(through[:2], -out[:2, ~reflected] / ior, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(through, axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(found.weight[:, reflected], 1.0)
    np.testing.assert_allclose(
        found.weight[:, ~reflected], np.broadcast_to(COLOUR[:, None], through.shape)
    )


def test_light_leaves_glass_only_inside_the_critical_angle_and_is_tinted_once():
    ior, out = 1.5, directions(1)
    found = sampled(made_of("glass", ior=ior), out, np.full(RAYS, 0.9999), enters=False)
    escapes = np.sqrt(1 - out[2] ** 2) < 1 / ior
    near = np.abs(np.sqrt(1 - out[2] ** 2) - 1 / ior) < 1e-3
    assert 0.2 < escapes.mean() < 0.4  # 1 − cos 41.8° of the hemisphere is 25 %
    np.testing.assert_array_equal((np.asarray(found.direction)[2] < 0)[~near], escapes[~near])
    np.testing.assert_array_equal(found.weight, 1.0)
