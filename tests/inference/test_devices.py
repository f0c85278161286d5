# SPDX-License-Identifier: Apache-2.0
"""Several devices: the same frames, bit for bit. The devices are parts of this machine's CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from flavr_jax.inference import devices
from flavr_jax.inference.options import Resources

pytestmark = pytest.mark.usefixtures("definition")

NETWORK = """
from fractions import Fraction
import av, jax, numpy as np
from flavr_jax.config import ModelConfig
from flavr_jax.inference import devices, passes, pipeline, stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr, head
from flavr_jax.profiling import video_throughput
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.pixels.colour import Colour, picture

# The blend of the middle frames stands in for the network, which would take minutes to compile
# for every device.
flavr.apply = lambda config, params, windows, outputs: head.blend(windows, np.array([0.5]))
config = ModelConfig(width=1, n_outputs=1)
network = Interpolator(config, flavr.init(config, jax.random.key(0)))
clip = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
"""

SPREAD = (
    NETWORK
    + """
alone = network(clip, 4)  # two passes: the second reads frames that lie on several devices
used, between = set(), network.between

def watched(frames, factor, batch):
    made = between(frames, factor, batch)
    used.update(made.frames.devices())
    return made

network.between = watched
network.use(devices.choose("3"))
assert network.concurrency == 3
np.testing.assert_array_equal(network(clip, 4), alone)
assert used == set(jax.devices()[:3]), used
network.between = between
with pipeline.Pipeline() as threads:
    timed = [TimedFrame(one, Fraction(n), Fraction(1)) for n, one in enumerate(clip)]
    options = stream.Options(4, cut="ignore")
    made = stream.overlapped(threads, timed, network, options, stream.Summary(), None)
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in made]), alone)
    assert all(each.items for each in threads.times), threads.times
taken = set()
network.between = lambda *args, device: (taken.add(device), between(*args, device=device))[1]
assert video_throughput.network_rate(network, timed, 2, 1, 0.1) > 0
assert taken == {0, 1, 2}

# Planes are converted where they are, though another thread's default device is another.
for device in range(3):
    frame = av.VideoFrame.from_ndarray(clip[0], "rgb24").reformat(format="yuv420p")
    planar = picture(frame, Colour(1, 1))
    sent = network.upload(planar, device)
    assert sent.pixels.devices() == {jax.devices()[device]}, device
    planes = planar.conversion.encode(sent.pixels)
    assert planes.devices() == {jax.devices()[device]}, device
"""
)

KEPT = (
    NETWORK
    + """
import os
jax.config.update("jax_compilation_cache_dir", os.environ["KEPT_IN"])
blend, traced = flavr.apply, []
flavr.apply = lambda *args, **kwargs: (traced.append(1), blend(*args, **kwargs))[1]
numbers = []
for _ in range(2):
    kept = Interpolator(
        config, flavr.init(config, jax.random.key(0)), keep_programs=True, boundary="duplicate"
    )
    kept.use(devices.choose("3"))
    asked = []
    kept.on_compile = lambda *size: asked.append(size)
    frames = [kept.upload(frame) for frame in clip[:4, :8]]  # a size of its own
    made = [np.asarray(kept.between(frames, 2)) for _ in range(3)]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    numbers.append((len(traced), len(asked)))
# One trace for three programs; the second network loads all of them.
assert numbers == [(1, 3), (1, 0)], numbers
"""
)


def test_frames_do_not_depend_on_the_number_of_devices():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", SPREAD], env=environment, check=True, timeout=120)


def test_every_device_keeps_its_program_and_all_are_traced_once(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "KEPT_IN": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", KEPT], env=environment, check=True, timeout=120)


def test_more_devices_than_there_are_is_explained():
    count = len(jax.local_devices())
    assert devices.choose("all") == jax.local_devices()
    with pytest.raises(ValueError, match=rf"`devices` is {count + 1}, but JAX sees {count} \(cpu"):
        devices.choose(str(count + 1))


@pytest.mark.parametrize("wanted", ["0", "-1", "many", ""])
def test_what_is_no_number_of_devices_is_explained(wanted):
    with pytest.raises(ValueError, match="all, or a number from 1"):
        Resources(devices=wanted)
