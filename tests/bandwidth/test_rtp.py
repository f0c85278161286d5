# SPDX-License-Identifier: Apache-2.0
"""MPEG-TS over RTP: order, losses, the end of a stream, and streams from and to FFmpeg."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lossy_proxy import free_port

from flavr_jax.bandwidth.rtp import PAYLOAD, RtpReader, RtpWriter

GOODBYE = struct.pack("!BBHIBBHI", 0x80, 201, 1, 7, 0x81, 203, 1, 7)


def packet(number, payload, *, source=7, first=0x80, kind=33, more=b""):
    header = struct.pack("!BBHII", first, kind, number & 0xFFFF, 0, source)
    return header + more + payload


def read(packets, *, timeout=0.3):
    """Send packets, and return the reader and all that it reads."""
    port = free_port()
    reader = RtpReader(f"rtp://127.0.0.1:{port}", patience=5.0, timeout=timeout)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for each in packets:
            sender.sendto(each, ("127.0.0.1", port))
    parts = list(iter(lambda: reader.read(3), b""))
    reader.close()
    return reader, b"".join(parts)


@pytest.mark.parametrize("start", [0, 65534])
@pytest.mark.parametrize(
    ("order", "content", "lost"),
    [
        ([0, 1, 2, 3], b"abcd", 0),
        ([0, 2, 1, 3], b"abcd", 0),
        ([0, 3, 2, 1], b"abcd", 0),
        ([0, 1, 1, 0, 2], b"abc", 0),
        ([0, 3], b"ad", 2),
        ([0, 2, 4], b"ace", 2),
    ],
)
def test_packets_are_read_in_the_order_they_were_sent(start, order, content, lost):
    packets = [packet(start + n, b"abcde"[n : n + 1]) for n in order]
    reader, data = read([*packets, GOODBYE])
    assert (data, reader.lost) == (content, lost)


def test_a_goodbye_ends_the_stream_even_if_it_overtakes_a_packet():
    begin = time.monotonic()
    _, data = read([packet(0, b"a"), GOODBYE, packet(1, b"b")], timeout=30.0)
    assert data == b"ab"
    assert time.monotonic() - begin < 5


def test_the_goodbye_of_another_sender_ends_nothing():
    _, data = read([packet(0, b"a", source=8), GOODBYE, packet(1, b"b", source=8)])
    assert data == b"ab"


def test_only_the_payload_of_mpeg_ts_is_read():
    extension = struct.pack("!IHHI", 1, 0, 1, 2)  # one contributing source, one word
    packets = [
        packet(0, b"a", first=0x91, more=extension),
        packet(1, b"b\0\0\3", first=0xA0),  # 3 bytes of padding
        packet(2, b"c", kind=33 | 0x80),  # with a marker
        packet(3, b"x", kind=96),
        b"short",
        packet(3, b"d"),
    ]
    assert read(packets)[1] == b"abcd"


@pytest.mark.parametrize(("number", "source"), [(1, 9), (30000, 7)])
def test_a_sender_that_began_again_is_followed(number, source):
    reader, data = read([packet(100, b"a"), packet(number, b"b", source=source)])
    assert (data, reader.lost) == (b"ab", 0)


def test_a_stream_without_packets_ends_after_the_wait():
    reader = RtpReader(f"rtp://127.0.0.1:{free_port()}", patience=0.1, timeout=30.0)
    assert reader.read(10) == b""
    reader.close()


def test_what_is_written_comes_out_in_packets_that_fit():
    port, data = free_port(), bytes(range(256)) * 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", port))
        receiver.settimeout(2.0)
        writer = RtpWriter(f"rtp://127.0.0.1:{port}")
        assert writer.write(data) == len(data)
        writer.close()
        packets = [receiver.recv(65536) for _ in range(5)]
    numbers = [struct.unpack("!H", each[2:4])[0] for each in packets[:4]]
    assert [(number - numbers[0]) % 65536 for number in numbers] == [0, 1, 2, 3]
    assert max(map(len, packets)) == 12 + PAYLOAD
    assert b"".join(each[12:] for each in packets[:4]) == data
    assert (packets[4][1], packets[4][9]) == (201, 203)


@pytest.mark.parametrize("url", ["rtp://127.0.0.1", "rtp://:5000", "rtp://127.0.0.1:x"])
def test_a_url_without_host_or_port_is_explained(url):
    for make in (RtpWriter, lambda url: RtpReader(url, patience=1.0, timeout=1.0)):
        with pytest.raises(ValueError, match="write rtp://HOST:PORT"):
            make(url)


def frames_sent(target, file_format, count=12):
    """Encode and send frames, each as soon as it is encoded."""
    options = {"flush_packets": "1"}
    with av.open(target, "w", format=file_format, container_options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            time.sleep(0.01)
            picture = np.full((48, 64, 3), 4 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def test_ffmpeg_receives_what_is_sent():
    port = free_port()

    def send():
        time.sleep(0.3)  # until FFmpeg listens
        writer = RtpWriter(f"rtp://127.0.0.1:{port}")
        frames_sent(writer, "mpegts")
        writer.close()

    thread = threading.Thread(target=send)
    thread.start()
    options = {"probesize": "5000", "timeout": "1000000"}
    with av.open(f"rtp://127.0.0.1:{port}", options=options, timeout=5) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    thread.join()
    assert len(packets) >= 10  # FFmpeg's receiver does not pass on the last frame


def test_what_ffmpeg_sends_is_received():
    port = free_port()
    reader = RtpReader(f"rtp://127.0.0.1:{port}", patience=5.0, timeout=0.5)
    frames_sent(f"rtp://127.0.0.1:{port}?pkt_size=1328", "rtp_mpegts", count=60)
    with av.open(reader, format="mpegts") as container:
        count = sum(packet.size > 0 for packet in container.demux(video=0))
    reader.close()
    assert count > 40  # FFmpeg's sender keeps what does not fill its last packet
