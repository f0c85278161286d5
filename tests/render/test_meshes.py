# SPDX-License-Identifier: Apache-2.0
"""Meshes from files: a box of triangles looks like the box that has a formula."""

from __future__ import annotations

import numpy as np
import pytest

from flavr_jax.render import Camera, Environment, Material, Object, Renderer, Scene

trimesh = pytest.importorskip("trimesh")
HALF = (0.6, 0.8, 0.5)


def scene(shape, folder="."):
    return Scene(
        objects=(shape,),
        materials={"paint": Material(colour=(0.7, 0.5, 0.3))},
        environment=Environment(zenith=(0.9, 0.9, 0.9), horizon=(0.2, 0.2, 0.2)),
        camera=Camera((2.0, -5.0, 2.5), (0.0, 0.0, 0.0), field_of_view=30.0),
        bounces=1,
        folder=str(folder),
    )


@pytest.mark.parametrize("kind", ["glb", "gltf", "obj", "ply"])
def test_a_box_of_triangles_looks_like_a_box(tmp_path, kind):
    # Two halves, placed by a transform of their own: a file may hold several parts.
    half = trimesh.creation.box(extents=(2 * HALF[0], 2 * HALF[1], HALF[2]))
    half.unmerge_vertices()  # corners keep the normals of their faces
    parts = trimesh.Scene()
    for name, height in (("low", -HALF[2] / 2), ("high", HALF[2] / 2)):
        move = trimesh.transformations.translation_matrix([0.0, 0.0, height])
        parts.add_geometry(half, node_name=name, transform=move)
    file = tmp_path / f"box.{kind}"
    (parts if kind in ("glb", "gltf") else parts.to_mesh()).export(file)
    size = {"height": 24, "width": 32, "samples": 4}
    of_mesh = Object(shape="mesh", material="paint", file=file.name)
    of_box = Object(shape="box", material="paint", size=HALF)
    images = [Renderer(scene(each, tmp_path)).render(0.0, **size) for each in (of_mesh, of_box)]
    np.testing.assert_allclose(images[0].normal, images[1].normal, atol=0.02)
    np.testing.assert_allclose(images[0].light, images[1].light, atol=0.05)
    assert np.asarray(images[1].normal).std() > 0.1
