# SPDX-License-Identifier: Apache-2.0
"""MPEG-TS over RTP (RFC 3550; payload type 33 of RFC 2250), as files that PyAV writes and reads.

FFmpeg's own ``rtp_mpegts`` sends seven MPEG-TS packets at a time. It holds back fewer until more
come, which delays small frames, and loses them at the end of a stream. Here every frame is sent at
once, and a goodbye (RTCP, on the same port) ends the stream without a wait.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import time
from urllib.parse import urlsplit

__all__ = ["PAYLOAD", "RtpReader", "RtpWriter"]

PAYLOAD = 1316
"""Most bytes of a packet without its header: 7 MPEG-TS packets, which fit into Ethernet's."""

_VERSION = 0x80
_MPEG_TS = 33
_RECEIVER_REPORT, _GOODBYE = 201, 203  # types of RTCP
_GOODBYES = 3  # in case that some are lost
_WAIT = 0.05  # seconds for which packets that overtook others are kept back
_NEW = 1000  # a jump of more packets is a sender that began again


class RtpWriter:
    """Sends what is written to it, MPEG-TS, in packets of RTP."""

    def __init__(self, url: str) -> None:
        """Connect to ``rtp://HOST:PORT``.

        Raises:
            ValueError: the URL has no host or port.
            OSError: there is no such host.
        """
        self._socket, address = _socket(url)
        self._socket.connect(address)
        self._number, self._source = secrets.randbits(16), secrets.randbits(32)
        self._origin = secrets.randbits(32) - round(90000 * time.monotonic())

    def write(self, data: bytes) -> int:
        """Send all of ``data``; return its length."""
        for begin in range(0, len(data), PAYLOAD):
            now = self._origin + round(90000 * time.monotonic())
            header = struct.pack(
                "!BBHII", _VERSION, _MPEG_TS, self._number, now & 0xFFFFFFFF, self._source
            )
            self._send(header + data[begin : begin + PAYLOAD])
            self._number = (self._number + 1) & 0xFFFF
        return len(data)

    def close(self) -> None:
        """Say goodbye and close the socket."""
        # RFC 3550 begins each packet of RTCP with a report; this one has no content.
        report = struct.pack("!BBHI", _VERSION, _RECEIVER_REPORT, 1, self._source)
        goodbye = struct.pack("!BBHI", _VERSION | 1, _GOODBYE, 1, self._source)
        for _ in range(_GOODBYES):
            self._send(report + goodbye)
        self._socket.close()

    def _send(self, packet: bytes) -> None:
        # Nobody listens yet, as the answer to an earlier packet says.
        with contextlib.suppress(ConnectionRefusedError):
            self._socket.send(packet)


class RtpReader:
    """Receives MPEG-TS in the order in which it was sent.

    Attributes:
        lost: packets that did not come, or too late.
    """

    def __init__(self, url: str, *, patience: float, timeout: float) -> None:
        """Listen at ``rtp://HOST:PORT``.

        Args:
            url: address and port of this machine; 0.0.0.0 is every address.
            patience: seconds to wait for the first packet.
            timeout: seconds without packets after which the stream has ended.

        Raises:
            ValueError: the URL has no host or port.
            OSError: the port is in use or the address is not of this machine.
        """
        self._socket, address = _socket(url)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        try:
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self._patience, self._timeout = patience, timeout
        self._kept: dict[int, bytes] = {}  # packets after a gap, by their extended number
        self._next: int | None = None
        self._source, self._gap, self._ended = 0, 0.0, False
        self._ready = bytearray()
        self.lost = 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some, and none at the end."""
        while not self._ready and not self._ended:
            self._receive()
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _receive(self) -> None:
        """Wait for a packet, or until those after a gap have waited long enough."""
        wait = self._patience if self._next is None else self._timeout
        if self._kept:
            wait = max(0.0, self._gap + _WAIT - time.monotonic())
        self._socket.settimeout(max(wait, 1e-6))
        try:
            packet = self._socket.recv(65536)
        except TimeoutError:
            self._ended = not self._kept
            self._skip()
            return
        if len(packet) >= 12 and packet[0] >> 6 == 2:
            self._sort(packet)
        if self._kept and time.monotonic() - self._gap > _WAIT:
            self._skip()

    def _sort(self, packet: bytes) -> None:
        """Keep a packet until those before it are there."""
        kind, number, _, source = struct.unpack("!xBHII", packet[:12])
        if 200 <= kind <= 204:
            if self._next is not None and _leaving(packet) == self._source:
                self._timeout = min(self._timeout, _WAIT)  # the goodbye may have overtaken packets
            return
        if kind & 0x7F != _MPEG_TS:
            return
        if self._next is None or source != self._source:
            self._kept.clear()
            self._next, self._source = number, source
        ahead = (number - self._next + 0x8000) % 0x10000 - 0x8000
        if abs(ahead) > _NEW:
            self._kept.clear()
            self._next, ahead = number, 0
        if ahead < 0:
            return  # twice, or too late
        if not self._kept:
            self._gap = time.monotonic()
        self._kept[self._next + ahead] = _payload(packet)
        self._release()

    def _release(self) -> None:
        """Pass on packets up to the next gap."""
        assert self._next is not None
        released = False
        while self._next in self._kept:
            self._ready += self._kept.pop(self._next)
            self._next, released = self._next + 1, True
        if released:
            self._gap = time.monotonic()

    def _skip(self) -> None:
        """Give up the packets of the first gap."""
        if self._kept and self._next is not None:
            first = min(self._kept)
            self.lost += first - self._next
            self._next = first
            self._release()


def _payload(packet: bytes) -> bytes:
    """Return a packet without header, sources, extension and padding."""
    begin, end = 12 + 4 * (packet[0] & 0x0F), len(packet)
    if packet[0] & 0x10:  # extension: 4 bytes, of which the last two count the words that follow
        begin += 4 + 4 * int.from_bytes(packet[begin + 2 : begin + 4])
    if packet[0] & 0x20:
        end -= packet[-1]
    return packet[begin:end]


def _leaving(packet: bytes) -> int | None:
    """Return the source that says goodbye in a packet of RTCP, if one does."""
    begin = 0
    while begin + 8 <= len(packet):
        kind, words, source = struct.unpack_from("!xBHI", packet, begin)
        if kind == _GOODBYE:
            return source
        begin += 4 + 4 * words
    return None


def _socket(url: str) -> tuple[socket.socket, tuple[str, int]]:
    """Return an unconnected UDP socket, and the address in a URL."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ValueError(f"{url} has no host or no port; write rtp://HOST:PORT.")
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return socket.socket(family, kind, protocol), (str(address[0]), int(address[1]))
