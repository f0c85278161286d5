# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax import render


@pytest.mark.parametrize("name", render.shipped())
def test_scenes_that_ship_can_be_read_and_move(name):
    scene = render.load(name)
    first, later = ([each.at(time) for each in scene.objects] for time in (0.0, 1.0))
    eyes = [scene.camera.at(time)[0] for time in (0.0, 1.0)]
    moved = max(np.abs(a[0] - b[0]).max() + np.abs(a[1] - b[1]).max() for a, b in zip(first, later))
    travelled = np.abs(eyes[0] - eyes[1]).max()
    assert (moved > 0.1) == (name in ("juggling", "showcase", "knot"))
    assert (travelled > 0.1) == (name in ("courtyard", "showcase", "glass"))


def write(folder, text):
    path = folder / "scene.toml"
    path.write_text(text)
    return path


def test_mistakes_in_a_scene_are_explained(tmp_path):
    for text, message in (
        ("[camera]\nfov = 3.0", "unknown key 'fov'"),
        ('[[objects]]\nmaterial = "tin"', "known materials are none"),
        ('[materials.a]\n[[objects]]\nmaterial = "a"\nshape = "cone"', "choose one of"),
        ('[materials.a]\n[[objects]]\nmaterial = "a"\nshape = "mesh"', "without a `file`"),
        ('[materials.a]\npattern = "image"', "has no `image`"),
        ("bounces = 0", "at least 1"),
        ("[sun]\ndirection = [0.0, 0.0, 0.0]", "zero; give the direction"),
        ("[sun]\nangle = 0.0", "above 0, and at most 90"),
        ("[materials.a]\ncolour = [0.5]", r"`colour` has 1 values, \[0.5\]; 3 go there"),
        ("[camera]\nposition = [1.0, 2.0, 3.0, 4.0]", "`position` has 4 values"),
        ('[materials.a]\n[[objects]]\nmaterial = "a"\nsize = []', "give 1 to 3 numbers above 0"),
        ('[materials.a]\n[[objects]]\nmaterial = "a"\nsize = [1.0, -1.0]', "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            render.load(write(tmp_path, text))


def test_a_missing_scene_names_those_that_ship():
    with pytest.raises(FileNotFoundError, match="courtyard, glass, juggling, knot, showcase"):
        render.load("nowhere")


def test_a_camera_looks_at_its_target():
    camera = render.Camera(position=(1.0, -5.0, 3.0), target=(0.0, 2.0, 0.5))
    eye, axes, focus = camera.at(0.0)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(eye + focus * axes[2], camera.target)
    assert axes[1, 2] < 0  # down


@pytest.mark.parametrize(("height", "down"), [(5.0, -1.0), (-5.0, 1.0)])
def test_a_camera_may_look_straight_down_or_up(height, down):
    _, axes, focus = render.Camera(position=(1.0, 2.0, height), target=(1.0, 2.0, 0.0)).at(0.0)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    np.testing.assert_array_equal(axes[0], [1, 0, 0])
    np.testing.assert_array_equal(axes[2], [0, 0, down])
    assert focus == 5.0


def test_a_camera_at_its_target_is_refused():
    with pytest.raises(ValueError, match=r"at 2 s the camera is at its target, \[1.0, 1.0, 1.0\]"):
        render.Camera(position=(1.0, 1.0, 1.0), target=(1.0, 1.0, 1.0)).at(2.0)


def test_a_focus_of_its_own_takes_the_place_of_the_targets_distance():
    camera = render.Camera(position=(0.0, -5.0, 0.0), target=(0.0, 0.0, 0.0), focus=2.5)
    assert camera.at(0.0)[2] == 2.5


def test_files_are_listed_once_and_only_if_they_are_used():
    materials = {
        name: render.Material(pattern="image", image=f"{name}.png") for name in ("brick", "sky")
    }
    scene = render.Scene(
        objects=(
            *(render.Object(shape="mesh", material="brick", file=f) for f in ("b.obj", "a.obj")),
            render.Object(shape="mesh", material="brick", file="b.obj"),
        ),
        materials=materials,
    )
    assert scene.meshes == ["a.obj", "b.obj"]
    assert scene.images == ["brick.png"]
