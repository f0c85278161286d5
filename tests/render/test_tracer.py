# SPDX-License-Identifier: Apache-2.0
"""Pictures whose light is known exactly. One program serves most tests: compiling takes time."""

import dataclasses

import numpy as np
import pytest

from flavr_jax.render import Camera, Environment, Material, Object, Renderer, Scene
from flavr_jax.render.motion import Key

SIZE = {"height": 24, "width": 32, "samples": 16}
BLACK = Material(colour=(0.0, 0.0, 0.0))
AWAY = (0.0, 5000.0, -5000.0)


def scene(ball, *, sky=0.0, lamp=None, floor=BLACK, floor_at=-4000.0, camera=None):
    """A ball of radius 1 in the origin, a floor, and a lamp: position, radius and radiance."""
    position, radius, radiance = lamp or (AWAY, 1.0, 0.0)
    return Scene(
        objects=(
            Object(material="ball"),
            Object(material="lamp", position=position, size=(radius,)),
            Object(
                material="floor",
                shape="rectangle",
                size=(50.0, 50.0) if floor_at == 0.0 else (1e-3, 1e-3),
                position=(0.0, 0.0, floor_at),
            ),
        ),
        materials={
            "ball": ball,
            "lamp": Material("emissive", (radiance,) * 3),
            "floor": floor,
        },
        environment=Environment((sky,) * 3, (sky,) * 3),
        camera=camera or Camera((0.0, -8.0, 0.0), field_of_view=30.0),
        bounces=8,
    )


def light_of(made, **more):
    return np.asarray(Renderer(made).render(0.0, **SIZE | more).light, np.float64)


def white(kind, **more):
    return Material(kind, (1.0, 1.0, 1.0), **more)


@pytest.mark.parametrize("albedo", [0.0, 0.18, 0.6, 1.0])
def test_a_dull_ball_in_a_white_sky_reflects_its_albedo(albedo):
    light = light_of(scene(Material(colour=(albedo,) * 3), sky=1.0))
    np.testing.assert_allclose(light[10:14, 14:18], albedo, atol=1e-4)
    np.testing.assert_allclose(light[0, 0], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("material", "least"),
    [
        (white("metal"), 0.9999),
        (white("glossy"), 0.9999),
        (white("glossy", roughness=0.3), 0.97),
        (white("metal", roughness=0.3), 0.97),
        (white("metal", roughness=0.7), 0.6),
        (white("glass"), 0.96),  # paths in the glass longer than 8 surfaces are cut
    ],
    ids=["mirror", "coat", "satin", "brushed metal", "rough metal", "glass"],
)
def test_a_white_ball_neither_makes_nor_loses_light(material, least):
    # GGX loses what rough surfaces would scatter twice: at a width of 0.49 and normal incidence,
    # w² / (1 + w²) = 19 % of the reflections are below the horizon.
    light = light_of(scene(material, sky=1.0))
    middle = light[8:16, 12:20].mean()
    assert least <= middle <= 1.003


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_a_sphere_light_lights_a_floor_by_the_closed_form(radius):
    # A floor below a sphere of radiance L has the irradiance π L (r / d)² cos θ.
    camera = Camera((0.0, -6.0, 5.0), (0.0, 0.0, 0.0), field_of_view=3.0)
    made = scene(
        BLACK,
        lamp=((0.0, 3.0, 4.0), radius, 3.0),
        floor=Material(colour=(0.5,) * 3),
        floor_at=0.0,
        camera=camera,
    )
    # The black ball is out of the way, not out of the program.
    ball = dataclasses.replace(made.objects[0], position=AWAY)
    made = dataclasses.replace(made, objects=(ball, *made.objects[1:]))
    expected = 0.5 * 3.0 * (radius / 5.0) ** 2 * (4.0 / 5.0)
    assert light_of(made)[11:13, 15:17].mean() == pytest.approx(expected, rel=0.01)


def test_the_error_falls_at_least_as_the_root_of_the_number_of_samples():
    # The middle of the picture that other tests render: 8 of 24 rows.
    middle = 2 * np.degrees(np.arctan(np.tan(np.radians(15.0)) * 8 / 24))
    made = scene(
        Material(colour=(0.8,) * 3),
        lamp=((3.0, -4.0, 3.0), 1.0, 8.0),
        sky=0.2,
        camera=Camera((0.0, -8.0, 0.0), field_of_view=middle),
    )
    renderer = Renderer(made)

    def parts(seed, count):
        """Pictures of 16 samples each, which continue one another."""
        size = {**SIZE, "height": 8, "width": 8}
        pictures = [renderer.render(0.0, **size, seed=seed, first=16 * i) for i in range(count)]
        return np.stack([picture.light for picture in pictures])

    truth = np.mean([parts(seed, 8).mean(axis=0) for seed in (11, 12)], axis=0)
    tried = [parts(seed, 8) for seed in (1, 2)]
    few, many = (
        np.sqrt(np.mean([(part[:count].mean(axis=0) - truth) ** 2 for part in tried]))
        for count in (1, 8)
    )
    assert few > 1e-3
    assert many < 1.3 * few / np.sqrt(8)


def test_both_ways_to_find_a_light_agree():
    """A rough metal meets a lamp by itself as often as it samples it."""
    made = scene(white("metal", roughness=0.4), lamp=((0.0, -6.0, 2.0), 1.5, 2.0), sky=0.0)
    seeds = [light_of(made, seed=seed)[6:14, 12:20].mean() for seed in range(6)]
    assert np.std(seeds) / np.mean(seeds) < 0.1
    # Enclosed by light of 2, the same ball would have 2: its lamp is a part of that.
    assert 0.05 < np.mean(seeds) < 2.0


def silhouette(made):
    """Share of each pixel that a black ball covers before a white sky, along the middle row."""
    return 1.0 - light_of(made)[11:13, :, 0].mean(axis=0)


def test_what_is_out_of_focus_blurs_by_the_circle_of_confusion():
    pinhole = Camera((0.0, -8.0, 0.0), field_of_view=30.0)
    lens = dataclasses.replace(pinhole, aperture=0.4)
    sharp, focused, blurred = (
        silhouette(scene(BLACK, sky=1.0, camera=camera))
        for camera in (pinhole, lens, dataclasses.replace(lens, focus=4.0))
    )
    partial = [((row > 0.03) & (row < 0.97)).sum() for row in (sharp, focused, blurred)]
    assert partial[0] <= partial[1] <= 4  # the lens sees past the ball's edge at its rim
    # At a distance of 8, a lens focused at 4 blurs by 2 · 0.4 · (8 / 4 − 1) = 0.8 units, which are
    # 0.8 · 24 / (16 · tan 15°) = 4.5 pixels at each edge.
    assert 7 <= partial[2] <= 11


def test_motion_blur_spreads_a_ball_over_its_way():
    made = scene(BLACK, sky=1.0)
    keys = (Key(-1.0, (-2.0, 0.0, 0.0)), Key(1.0, (2.0, 0.0, 0.0)))
    ball = dataclasses.replace(made.objects[0], keys=keys)
    camera = dataclasses.replace(made.camera, shutter=0.5)
    made = dataclasses.replace(made, objects=(ball, *made.objects[1:]), camera=camera)
    still = silhouette(dataclasses.replace(made, camera=scene(BLACK).camera))
    moved = silhouette(made)
    # 2 units a second for half a second, at 24 / (16 · tan 15°) = 5.6 pixels a unit.
    assert moved.sum() == pytest.approx(still.sum(), rel=0.02)
    assert (moved > 0.02).sum() - (still > 0.02).sum() == pytest.approx(5.6, abs=1.5)


def test_a_picture_is_decided_by_its_seed():
    made = scene(Material(colour=(0.5,) * 3), lamp=((2.0, -4.0, 3.0), 1.0, 5.0))
    first, again, other = (light_of(made, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_samples_can_be_continued():
    renderer = Renderer(scene(white("glossy", roughness=0.3), sky=0.5))
    parts = [renderer.render(0.0, **SIZE, first=first).light for first in (0, 16)]
    assert (parts[0] != parts[1]).any()
    np.testing.assert_allclose(np.mean(parts[0]), np.mean(parts[1]), rtol=0.01)


def test_albedo_and_normals_are_those_of_the_first_surface():
    image = Renderer(scene(Material(colour=(0.2, 0.4, 0.6)), sky=1.0)).render(0.0, **SIZE)
    np.testing.assert_allclose(image.albedo[12, 16], [0.2, 0.4, 0.6], atol=1e-5)
    np.testing.assert_allclose(image.normal[12, 16], [0.0, -1.0, 0.0], atol=0.15)


def test_a_picture_needs_a_sample():
    with pytest.raises(ValueError, match="`samples` is 0"):
        Renderer(scene(BLACK)).render(0.0, height=8, width=8, samples=0)
