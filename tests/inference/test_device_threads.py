# SPDX-License-Identifier: Apache-2.0
"""Computations started by a thread for each device: at the same time, in order, with all errors."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.inference import stream
from flavr_jax.inference.computation import Computation, NonFiniteError
from flavr_jax.inference.device_threads import Dispatched
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.video.frames import TimedFrame
from flavr_jax.video.pixels.colour import Colour, conversion
from flavr_jax.video.pixels.picture import Planar, resident

pytestmark = pytest.mark.usefixtures("definition")

WAIT = 10.0  # seconds; longer than anything here takes on a busy machine


class Spread:
    """A 2× network on several devices that shows the first frame of the interval again."""

    boundary = "duplicate"
    factor = 2

    def __init__(self, concurrency=2):
        self.config = ModelConfig(width=1, n_outputs=1)
        self.concurrency, self.ahead = concurrency, 2 * concurrency
        self.uploads, self.computed = [], []
        self.together = threading.Barrier(1)
        self.finite = True

    def passes(self, factor):
        return [factor]

    def upload(self, picture, device=None):
        self.uploads.append((int(picture[0, 0, 0]), device))
        return resident(picture)

    def between(self, frames, factor, batch=1, device=None):
        self.together.wait(WAIT)
        self.computed.append((int(frames[1].pixels[0, 0, 0]), device))
        made = jnp.stack([frame.pixels[None] for frame in frames[1:-2]])
        return Computation(made, jnp.full(len(made), self.finite), "fp32")


def frames(count):
    return [
        TimedFrame(np.full((2, 2, 3), n, np.uint8), Fraction(n), Fraction(1)) for n in range(count)
    ]


def interpolated(network, count):
    options = stream.Options(2, cut="ignore")
    with Pipeline() as pipeline:
        made = stream.overlapped(pipeline, frames(count), network, options, stream.Summary(), None)
        return [int(frame.pixels[0, 0, 0]) for frame in made], pipeline.times


def test_devices_compute_in_turn_and_frames_keep_their_order():
    network = Spread()
    shown, times = interpolated(network, 6)
    assert shown == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert sorted(network.computed) == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    # 3 and 2 computations, each with a copy to the host.
    assert [(each.name, each.items) for each in times[2:4]] == [("device 0", 6), ("device 1", 4)]


def test_one_device_does_not_wait_until_a_computation_of_another_is_started():
    network = Spread()
    network.together = threading.Barrier(2)  # passes when both devices are at it
    shown, _ = interpolated(network, 5)
    assert shown == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert not network.together.broken


def test_a_frame_is_uploaded_once_to_each_device_that_reads_it():
    network = Spread()
    interpolated(network, 9)
    assert len(network.uploads) == len(set(network.uploads))
    # Windows have 4 frames, so both devices read every frame but those at the ends.
    assert {(n, device) for n in range(2, 7) for device in (0, 1)} <= set(network.uploads)


def test_an_error_in_the_thread_of_a_device_reaches_the_caller():
    network = Spread()
    network.together.abort()
    with pytest.raises(threading.BrokenBarrierError):
        interpolated(network, 5)


def test_nan_is_reported_with_the_frame_of_the_output():
    network = Spread()
    network.finite = False
    with pytest.raises(NonFiniteError, match="frame 2 of the output"):
        interpolated(network, 5)


def test_the_thread_of_a_device_ends_with_the_pipeline():
    began, hang = threading.Event(), threading.Event()

    def hanging():
        began.set()
        hang.wait(WAIT)

    with Pipeline() as pipeline:
        worker = pipeline.worker("device")
        first, second = worker.submit(hanging), worker.submit(hanging)
        assert began.wait(WAIT)
        threading.Timer(0.05, hang.set).start()
    assert first.done()
    with pytest.raises(CancelledError):
        second.result(0)
    assert "device" not in {thread.name for thread in threading.enumerate()}


def test_frames_beyond_the_ends_can_be_synthesised_before_any_device_has_a_copy():
    network = Spread()
    network.boundary = "extrapolate"
    with Pipeline() as pipeline:
        spread = Dispatched(network, pipeline)
        frame = spread.upload(np.full((2, 2, 3), 7, np.uint8))
        assert frame.opaque
        assert int(frame.pixels[0, 0, 0]) == 7
    shown, _ = interpolated(network, 4)
    assert shown == [0, 0, 1, 1, 2, 2, 3]


def test_a_whole_batch_has_room_while_its_reader_is_busy():
    network = Spread(concurrency=1)
    options = stream.Options(2, cut="ignore", batch=64)
    with Pipeline() as pipeline:
        made = stream.overlapped(pipeline, frames(200), network, options, stream.Summary(), None)
        next(made)
        end = time.monotonic() + WAIT
        # 64 intervals have 128 frames.
        while {each.name: each.items for each in pipeline.times}["network"] < 128:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_planes_are_gathered_by_the_thread_that_decodes():
    threads = []

    def gather():
        threads.append(threading.current_thread().name)
        return [np.full(side, 128, np.uint8) for side in ((2, 2), (1, 1), (1, 1))]  # 4:2:0

    how = conversion("yuv420p", Colour(), 2)
    clip = [TimedFrame(Planar(gather, how, (2, 2)), Fraction(n), Fraction(1)) for n in range(6)]
    network = Spread(concurrency=1)
    network.upload = resident
    with Pipeline() as pipeline:
        options, summary = stream.Options(2), stream.Summary()
        made = stream.overlapped(pipeline, clip, network, options, summary, None)
        assert len(list(made)) == 11
    assert threads == ["decode"] * 6
