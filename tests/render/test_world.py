# SPDX-License-Identifier: Apache-2.0
"""Scenes as arrays, and pictures of light: units, files, times and the film's curve."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flavr_jax.render import Camera, Environment, Material, Object, Scene, Sun, tone_map, world
from flavr_jax.render.motion import Key, Orbit

PAINT = {"paint": Material(), "lamp": Material("emissive"), "steel": Material("metal")}


def objects(*shapes, material="paint", **more):
    return tuple(Object(shape=shape, material=material, **more) for shape in shapes)


def test_one_or_two_sizes_stand_for_three():
    sized = [Object(material="paint", size=size) for size in ((2.0,), (2.0, 3.0), (2.0, 3.0, 4.0))]
    _, arrays = world.compile_scene(Scene(tuple(sized), PAINT))
    np.testing.assert_array_equal(arrays.size, [[2, 2, 2], [2, 3, 3], [2, 3, 4]])


def test_only_emissive_spheres_and_rectangles_are_sampled_as_lights():
    # Others that shine are met by chance only.
    shapes = ("sphere", "box", "rectangle", "plane")
    made = Scene((*objects("sphere"), *objects(*shapes, material="lamp")), PAINT)
    layout, arrays = world.compile_scene(made)
    assert layout.lights == (1, 3)
    np.testing.assert_array_equal(arrays.materials.sampled, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(arrays.materials.is_light, [0, 1, 1, 1, 1])


@pytest.mark.parametrize(("roughness", "width"), [(0.0, 0.0), (0.05, 0.0), (0.3, 0.09), (1.0, 1.0)])
def test_a_lobe_is_as_wide_as_the_square_of_the_roughness_and_narrow_ones_are_mirrors(
    roughness, width
):
    steel = {"steel": Material("metal", roughness=roughness)}
    _, arrays = world.compile_scene(Scene(objects("sphere", material="steel"), steel))
    np.testing.assert_allclose(arrays.materials.width, [width], rtol=1e-6)


def test_a_plain_material_has_one_colour_and_a_pattern_two():
    paints = {
        "plain": Material(colour=(0.1, 0.2, 0.3), second=(0.9, 0.9, 0.9)),
        "tiled": Material(colour=(0.1, 0.2, 0.3), second=(0.9, 0.9, 0.9), pattern="checker"),
    }
    made = Scene(tuple(Object(material=name) for name in paints), paints)
    layout, arrays = world.compile_scene(made)
    assert layout.patterns == ("checker", "plain")
    np.testing.assert_allclose(arrays.materials.second, [[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]])


def test_programs_are_shared_by_scenes_that_differ_in_numbers_alone():
    first = Scene(objects("sphere", "box"), PAINT)
    other = dataclasses.replace(
        first,
        objects=objects("sphere", "box", position=(1.0, 2.0, 3.0), size=(2.0,)),
        camera=Camera(field_of_view=20.0),
        environment=Environment(zenith=(1.0, 1.0, 1.0)),
    )
    assert world.compile_scene(first)[0] == world.compile_scene(other)[0]
    more = dataclasses.replace(first, sun=Sun(colour=(1.0, 1.0, 1.0)))
    assert world.compile_scene(first)[0] != world.compile_scene(more)[0]


def test_images_are_read_as_linear_light(tmp_path):
    levels = np.array([0, 10, 55, 128, 255], np.uint8)
    Image.fromarray(np.repeat(levels[None, :, None], 3, axis=2)).save(tmp_path / "ramp.png")
    paints = {"photo": Material(pattern="image", image="ramp.png")}
    made = Scene(objects("rectangle", material="photo"), paints, folder=str(tmp_path))
    _, arrays = world.compile_scene(made)
    # sRGB's curve: a straight line below 0.04045, a power of 2.4 above.
    part = levels / 255
    expected = [part[0] / 12.92, part[1] / 12.92, *((part[2:] + 0.055) / 1.055) ** 2.4]
    np.testing.assert_allclose(arrays.images[0][0, :, 1], expected, rtol=1e-5)


def test_a_panorama_takes_the_place_of_both_colours(tmp_path):
    Image.new("RGB", (4, 2), "white").save(tmp_path / "sky.png")
    sky = Environment((0.3, 0.3, 0.3), (0.1, 0.1, 0.1), image="sky.png", strength=0.5)
    _, arrays = world.compile_scene(
        Scene(objects("sphere"), PAINT, environment=sky, folder=str(tmp_path))
    )
    np.testing.assert_allclose(arrays.panorama, np.full((2, 4, 3), 0.5))
    assert not np.any(arrays.sky)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Scene(objects("mesh", file="cup.obj"), PAINT), "there is no mesh cup.obj; the scene"),
        (
            Scene(objects("sphere"), PAINT, environment=Environment(image="sky.png")),
            "there is no image sky.png; the scene",
        ),
    ],
)
def test_a_file_that_is_missing_is_named(made, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        world.compile_scene(made)


def test_a_mesh_without_its_reader_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    (tmp_path / "cup.obj").write_text("")
    made = Scene(objects("mesh", file="cup.obj"), PAINT, folder=str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=r"trimesh.*render\]"):
        world.compile_scene(made)


def test_a_scene_without_objects_is_refused():
    with pytest.raises(ValueError, match="no objects; give it one"):
        world.compile_scene(Scene())


MOVING = Object(material="paint", keys=(Key(0.0), Key(1.0, (10.0, 0.0, 0.0))))


def test_with_a_closed_shutter_there_is_one_moment_for_all_samples():
    moment = world.moments(Scene((MOVING,), PAINT), 0.25, 16)
    assert moment.position.shape == (1, 1, 3)
    assert moment.rotation.shape == (1, 1, 3, 3)
    np.testing.assert_allclose(moment.position[0, 0], MOVING.at(0.25)[0], rtol=1e-6)
    np.testing.assert_allclose(moment.focus, [np.hypot(10, 2)], rtol=1e-6)


def test_an_open_shutter_spreads_samples_evenly_about_the_time():
    made = Scene((MOVING,), PAINT, camera=Camera(shutter=0.4))
    moment = world.moments(made, 0.5, 8)
    times = 0.5 + 0.4 * (np.arange(8) - 3.5) / 8
    expected = [MOVING.at(float(time))[0] for time in times]
    np.testing.assert_allclose(moment.position[:, 0], expected, rtol=1e-6)
    assert moment.eye.shape == (8, 3)


def test_every_object_has_its_own_pose_at_a_moment():
    orbit = Object(material="paint", orbit=Orbit(radius=2.0, turn=90.0))
    moment = world.moments(Scene((MOVING, orbit), PAINT), 1.0, 1)
    np.testing.assert_allclose(moment.position[0], [[10, 0, 0], [0, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(moment.rotation[0, 1, :, 0], [0, 1, 0], atol=1e-6)


def test_light_becomes_a_picture_that_grows_with_it_and_never_clips():
    light = jnp.asarray(np.geomspace(1e-4, 100, 300).reshape(1, -1, 1) * np.ones(3), jnp.float32)
    picture = np.asarray(tone_map(light))
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert (np.diff(picture[0, :, 0]) >= 0).all()
    bright = picture[0, light[0, :, 0] < 4, 0]  # highlights roll off
    assert (np.diff(bright) > 0).all()


def test_a_picture_is_aces_curve_and_then_srgbs():
    # Narkowicz's fit at 0.18: 0.18 (2.51 · 0.18 + 0.03) / (0.18 (2.43 · 0.18 + 0.59) + 0.14).
    film = 0.18 * (2.51 * 0.18 + 0.03) / (0.18 * (2.43 * 0.18 + 0.59) + 0.14)
    grey = tone_map(jnp.full((1, 1, 3), 0.18))
    np.testing.assert_allclose(grey, 1.055 * film ** (1 / 2.4) - 0.055, rtol=1e-5)
    np.testing.assert_array_equal(tone_map(jnp.full((1, 1, 3), -1.0)), 0.0)


def test_exposure_is_a_factor_of_the_light():
    light = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (3, 4, 3)), jnp.float32)
    np.testing.assert_allclose(tone_map(light, 2.5), tone_map(2.5 * light), rtol=1e-6)
    assert not np.any(tone_map(light, 0.0))
