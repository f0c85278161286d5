# SPDX-License-Identifier: Apache-2.0
"""Sending and receiving over a loopback that loses packets and delays them; the network blends."""

from __future__ import annotations

import contextlib
import sys
import threading
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lossy_proxy import LossyProxy, free_port

from flavr_jax import cli
from flavr_jax.bandwidth import receiver as receiver_module
from flavr_jax.bandwidth.receiver import Receiver, restored
from flavr_jax.bandwidth.sender import Sending, send
from flavr_jax.commands import send as script
from flavr_jax.config import ModelConfig
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.video.files.reader import VideoReader
from flavr_jax.video.frames import ClipInfo, TimedFrame
from flavr_jax.video.pixels.picture import resident

RATE = Fraction(30000, 1001)
COUNT = 41
HEIGHT, WIDTH = 64, 96
INFO = ClipInfo(WIDTH, HEIGHT, RATE, 1 / RATE)


class Blend:
    """Mixes the two middle frames of a window."""

    config, boundary = ModelConfig(width=1, n_outputs=7), "mirror"
    factor, ahead = 8, 2

    def passes(self, factor):
        return [factor]

    def upload(self, picture):
        return resident(picture)

    def between(self, frames, factor, batch=1):
        first, second = (np.asarray(frame.pixels, np.float32) for frame in frames[1:3])
        mixed = [first + (second - first) * k / factor for k in range(1, factor)]
        pixels = jnp.asarray(np.round(mixed), np.uint8)[None]
        return Computation(pixels, jnp.ones(1, bool), "fp32")


def clip(count=COUNT):
    """A gradient that gets lighter, one level a frame: a blend is exactly the frame between."""
    ramp = np.linspace(20, 120, WIDTH).astype(np.uint8)
    for index in range(count):
        pixels = np.broadcast_to((ramp + 2 * index)[None, :, None], (HEIGHT, WIDTH, 3))
        yield TimedFrame(np.ascontiguousarray(pixels), index / RATE, 1 / RATE)


@contextlib.contextmanager
def sending(port, scheme, **settings):
    """Send the clip to a port, in a thread."""
    target = f"{scheme}://127.0.0.1:{port}"
    thread = threading.Thread(target=send, args=(clip(), INFO, target, Sending(**settings)))
    thread.start()
    yield
    thread.join()


def received(scheme, *, drop=2, **network):
    """Send the clip through a network, restore it, and return receiver, proxy and frames."""
    port = free_port()
    with LossyProxy(port, **network) as proxy, sending(proxy.port, scheme, drop=drop, key=0.3):
        receiver = Receiver(f"{scheme}://127.0.0.1:{port}", timeout=0.8)
        with Pipeline("show") as pipeline, contextlib.closing(receiver):
            made = restored(receiver, Blend(), drop, pipeline)
            frames = [receiver.shown(frame, 0.0) for frame in made]
    return receiver, proxy, frames


def errors(frames):
    """Return the mean error of each frame against the original of its time."""
    originals = [frame.pixels.astype(int) for frame in clip()]
    return [
        np.abs(frame.pixels.astype(int) - originals[round(frame.pts * RATE)]).mean()
        for frame in frames
    ]


@pytest.mark.parametrize("scheme", ["rtp", "udp"])
def test_dropped_frames_come_back_at_their_exact_times_despite_jitter(scheme):
    receiver, proxy, frames = received(scheme, jitter=0.01)
    assert receiver.info.rate == RATE / 2
    assert receiver.reception.frames == (COUNT + 1) / 2
    assert [frame.pts for frame in frames][:COUNT] == [index / RATE for index in range(COUNT)]
    assert max(errors(frames[:COUNT])) < 4
    # Two sent frames have to arrive before a frame between the two before them is made.
    assert np.median(receiver.reception.latencies) > float(2 / receiver.info.rate) - 0.05
    assert proxy.lost == 0


def test_a_buffer_shows_frames_at_an_even_pace_and_counts_late_ones(tmp_path, monkeypatch):
    send(clip(3), INFO, str(tmp_path / "clip.mkv"), Sending(drop=1, preset="ultrafast"))
    now, slept = [100.0], []
    monkeypatch.setattr(receiver_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(receiver_module.time, "sleep", slept.append)
    receiver = Receiver(str(tmp_path / "clip.mkv"))
    first, second, third = receiver  # all arrive at 100 s, so the last one is the fastest
    for frame, ready in ((first, 0.1), (second, 0.7), (third, 0.2)):
        now[0] = 100.0 - float(third.pts) + float(frame.pts) + ready
        receiver.shown(frame, 0.5)
    receiver.close()
    assert receiver.reception.latencies == pytest.approx([0.1, 0.7, 0.2])
    assert slept == pytest.approx([0.4, 0.3])
    assert receiver.reception.late == 1
    assert str(receiver.reception) == "3 frames received, 3 shown"  # a file has no latency


def test_packets_that_overtake_others_are_put_in_order_over_rtp():
    receiver, proxy, _ = received("rtp", drop=1, swap=0.3)  # sent every 33 ms
    assert proxy.swapped > 0
    assert (receiver.reception.frames, receiver.reception.gaps) == (COUNT, 0)


@pytest.mark.parametrize("scheme", ["rtp", "udp"])
def test_after_losses_no_damage_is_shown_and_times_stay_regular(scheme):
    receiver, proxy, frames = received(scheme, loss=0.2)
    assert proxy.lost > 0
    assert receiver.reception.gaps > 0
    assert "lost" in str(receiver.reception)
    first = frames[0].pts * RATE
    assert [frame.pts * RATE - first for frame in frames] == list(range(len(frames)))
    assert max(errors([frame for frame in frames if frame.pts * RATE < COUNT])) < 5


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "hevc"), (".mkv", "av1")])
def test_a_file_holds_one_frame_in_k_with_exact_times(tmp_path, suffix, codec):
    target = tmp_path / f"clip{suffix}"
    sent = send(clip(13), INFO, str(target), Sending(drop=4, codec=codec, preset="ultrafast"))
    assert (sent.frames_in, sent.frames) == (13, 4)
    assert 0 < sent.bytes < target.stat().st_size
    times = [frame.pts * RATE for frame in VideoReader(target)]
    assert [round(time) for time in times] == [0, 4, 8, 12]
    tolerance = 0.001 if suffix == ".ts" else 0.02  # Matroska rounds to milliseconds
    np.testing.assert_allclose([float(time) for time in times], [0, 4, 8, 12], atol=tolerance)


@pytest.mark.parametrize("scheme", ["rtp", "udp"])
def test_a_stream_that_does_not_come_ends_the_wait(scheme):
    with pytest.raises(OSError, match="cannot be received"):
        Receiver(f"{scheme}://127.0.0.1:{free_port()}", timeout=0.2)


def test_a_port_in_use_is_explained():
    with LossyProxy(1) as proxy, pytest.raises(OSError, match=r"received: Address already in use"):
        Receiver(f"rtp://127.0.0.1:{proxy.port}", timeout=0.2)


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("udp://127.0.0.1:9", {"codec": "av1"}, "`codec` is av1"),
        ("http://127.0.0.1:9", {}, "scheme 'http'; use rtp, udp, srt"),
        ("rtp://127.0.0.1", {}, "write rtp://HOST:PORT"),
        ("clip.ts", {"drop": 0}, "`drop` is 0"),
        ("clip.ts", {"key": 0.0}, "`key` is 0.0"),
    ],
)
def test_what_cannot_be_sent_is_explained(target, more, words):
    with pytest.raises(ValueError, match=words):
        send(clip(1), INFO, target, Sending(**more))


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match="95×64 pixels; both sides have to be even"):
        send(clip(1), ClipInfo(95, 64, RATE, 1 / RATE), "clip.ts")


def test_the_command_keeps_an_existing_file(tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "clip.mkv", tmp_path / "sent.ts"
    send(clip(3), INFO, str(source), Sending(drop=1, preset="ultrafast"))
    monkeypatch.setattr(sys, "argv", ["send.py", str(source), str(target)])
    codes = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main, script.Options)
        codes.append(stop.value.code)
    assert codes == [None, 2]
    output = capsys.readouterr()
    assert "2 of 3 frames" in output.out
    assert "exists" in output.err
