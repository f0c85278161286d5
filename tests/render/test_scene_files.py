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
