# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/ run as they are and do what they say."""

import importlib.util
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

import pallas_kernels as pk

ROOT = Path(__file__).parents[2]


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_listed_and_tested():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    listed = (ROOT / "examples/README.md").read_text()
    tested = Path(__file__).read_text()
    assert len(names) == 4
    for name in names:
        assert f"`{name}`" in listed
        assert f'load_example("{name.removesuffix(".py")}")' in tested


def test_a_file_becomes_a_file_of_the_same_duration_with_more_frames(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(40, 200, (8, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(tmp_path / "in.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for shift in range(4):
            pixels = np.ascontiguousarray(picture[:, 4 * shift : 4 * shift + 96])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    example = load_example("interpolate_file")
    example.interpolate_file(tmp_path / "in.mp4", tmp_path / "out.mp4", factor=2)
    with av.open(tmp_path / "out.mp4") as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(7) / 20, atol=1e-4)


def test_the_disc_of_the_array_example_moves_evenly():
    example = load_example("interpolate_array")
    smooth = example.main()
    assert smooth.shape == (25, 64, 64, 3)
    np.testing.assert_array_equal(smooth[::8], example.moving_disc())
    expected = 32 + 6.0 * (np.arange(25) / 8 - 1.5)  # the disc's centre at each time, by hand
    position = example.disc_position(smooth)
    np.testing.assert_allclose(position[8:17], expected[8:17], atol=0.2)
    np.testing.assert_allclose(position, expected, atol=1.5)  # the ends lack an outer input


def test_converted_weights_are_scored_beside_averaging(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "clips/pan").mkdir(parents=True)
    frames = [picture[:, 2 * shift : 2 * shift + 64] for shift in range(7)]
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"clips/pan/{number}.png")
    example = load_example("evaluate_converted")
    weights = ROOT / "tests/data/pytorch/official_2x_half.pth"
    scores = example.evaluate_converted(weights, tmp_path / "clips")
    assert list(scores) == ["official_2x_half.pth", "averaging"]
    mean = (frames[2].astype(float) + frames[4]) / 2
    error = np.mean(((mean - frames[3]) / 255) ** 2)
    assert scores["averaging"] == pytest.approx(-10 * np.log10(error + 1e-8), abs=0.01)
    assert 0 < scores["official_2x_half.pth"] < 60  # random weights: a score, not a good one


def test_a_network_of_ones_own_learns_and_would_run_on_the_hopper_kernels(capsys):
    example = load_example("denoise_video")
    before, after = example.main(steps=16)
    # The noise has a variance of 0.04, which an untrained network neither removes nor adds to.
    assert 0.03 < before < 0.1
    assert after < 0.9 * before
    assert capsys.readouterr().out.count("xla; not mosaic_gpu") == 5
    params, (_, noisy) = example.init(), example.draw_clips(1, seed=0)
    half = jax.tree.map(lambda array: array.astype("bfloat16"), params)
    with pk.assume_hopper():
        choices = pk.explain(example.denoise, half, noisy.astype("bfloat16"))
    # The first and the last convolution have 3 channels, which the kernels do not take.
    assert [choice.implementation == "mosaic_gpu" for choice in choices] == [0, 1, 1, 1, 0]
