# SPDX-License-Identifier: Apache-2.0
"""Writing GIF and reading animated WebP; reading GIF and writing WebP work as for any video.

A GIF has 256 colours. One palette is chosen for the whole clip, because a palette for each frame
would make still areas flicker. Until it is known, the frames are kept losslessly compressed in an
unnamed temporary file. Dithering uses a fixed pattern for the same reason. If the source is
dithered already, the palette is made of its own colours: originals keep their dots, and
interpolated frames get similar ones.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingLeft
from av.filter import Graph
from av.filter.context import FilterContext
from PIL import Image, UnidentifiedImageError

from flavr_jax.partial import Partial
from flavr_jax.video.files.names import file_url
from flavr_jax.video.frames import ClipInfo, Origin, TimedFrame
from flavr_jax.video.pixels.colour import SRGB, from_rgb
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.layout import Layout
from flavr_jax.video.stills.dither import PalettePicture, is_dithered, with_still_dots

__all__ = ["GifWriter", "WebPReader", "last_until", "plays_of_gif"]

logger = logging.getLogger(__name__)

_TICK = Fraction(1, 100)  # seconds
# In ticks: browsers show a frame of one tick for ten ticks.
_SHORTEST = 2
_PATTERN = "dither=bayer:bayer_scale=3:diff_mode=rectangle"
_DIFFUSED = "dither=floyd_steinberg:diff_mode=none"
_GIF_HEAD = 1 << 16  # bytes: a palette and comments may precede the block with the repeat count


class GifWriter:
    """Writes a GIF; a frame less than 20 ms after the last one written is left out.

    The GIF plays ``info.plays`` times, or endlessly if that is None.
    """

    conversion: Conversion | None = None

    def __init__(self, path: Path, info: ClipInfo, *, overwrite: bool = False) -> None:
        """Create the partial file.

        Args:
            path: the GIF.
            info: properties of the frames to come.
            overwrite: whether ``path`` may exist.

        Raises:
            OSError: ``path`` exists or cannot be written.
        """
        self.path, self.info = path, info
        self._partial = Partial(path, overwrite=overwrite)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._partial.discard)
        self._file = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        # NUT holds any codec and any time; FFV1 is lossless and fast.
        self._waiting = av.open(self._file, "w", format="nut")
        stream = self._waiting.add_stream("ffv1", rate=100, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "bgra"
        stream.time_base = stream.codec_context.time_base = _TICK
        self._stream = stream
        alpha = Layout.of(info.pixel_format).alpha
        self._palette = _graph(info, [("palettegen", f"reserve_transparent={int(alpha)}")])
        self._ticks: list[int] = []
        self._originals: list[bool] = []
        self._dithered: bool | None = None
        self._end, self._count, self._rounded = 0, 0, False

    def write(self, frame: TimedFrame) -> None:
        """Add a frame, unless it follows too soon; pts must increase."""
        tick = round(frame.pts / _TICK)
        self._count += 1
        self._rounded |= tick * _TICK != frame.pts
        self._end = round((frame.pts + frame.duration) / _TICK)
        if self._ticks and tick < self._ticks[-1] + _SHORTEST:
            return
        self._ticks.append(tick)
        picture = from_rgb(frame.pixels, "bgra", self.info.colour)
        picture.time_base, picture.pts = _TICK, tick
        original = frame.stored is not None
        if self._dithered is None:
            self._dithered = original and is_dithered(frame.pixels)
        # Originals need their colours exactly; those of interpolated frames would take up entries.
        if original or not self._dithered:
            self._palette.push(picture)
            with contextlib.suppress(NothingYet):
                self._palette.pull()  # otherwise pictures pile up in front of the filter
        self._originals.append(original)
        self._waiting.mux(self._stream.encode(picture))

    def __enter__(self) -> GifWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            self._waiting.mux(self._stream.encode(None))
            self._waiting.close()
            if kind is not None:
                return
            self._palette.push(None)
            self._write_gif(self._palette.vpull())
            self._partial.commit()
        lost = self._count - len(self._ticks)
        if self._rounded or lost:
            left_out = f", and {lost} of {self._count} frames are left out" if lost else ""
            logger.warning(
                "%s: a GIF counts in 10 ms and shows at most 50 frames a second: times are "
                "rounded%s.",
                self.path,
                left_out,
            )

    def _write_gif(self, palette: av.VideoFrame) -> None:
        graph = Graph()
        frames = _buffer(graph, self.info.width, self.info.height)
        colours = _buffer(graph, palette.width, palette.height)
        use = graph.add("paletteuse", _DIFFUSED if self._dithered else _PATTERN)
        sink = graph.add("buffersink")
        frames.link_to(use, 0, 0)
        colours.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        # The filter needs the whole palette before it can convert a frame.
        colours.push(palette)
        colours.push(None)
        self._file.seek(0)
        # A GIF stores delays, not times, and nothing follows the last frame to tell its delay.
        delay = max(_SHORTEST, self._end - self._ticks[-1])
        options = {"loop": str(_gif_loop(self.info.plays)), "final_delay": str(delay)}
        with (
            av.open(self._file, "r", format="nut") as waiting,
            av.open(file_url(self._partial.path), "w", format="gif", options=options) as output,
        ):
            stream = output.add_stream("gif", rate=100)
            stream.width, stream.height, stream.pix_fmt = self.info.width, self.info.height, "pal8"
            stream.time_base = stream.codec_context.time_base = _TICK
            pictures = self._in_colours(waiting.decode(video=0), frames, sink)
            for picture in with_still_dots(pictures) if self._dithered else pictures:
                output.mux(stream.encode(picture.indices))
            output.mux(stream.encode(None))

    def _in_colours(
        self, waiting: Iterable[av.VideoFrame], frames: FilterContext, sink: FilterContext
    ) -> Iterator[PalettePicture]:
        """Yield the stored pictures as palette indices."""
        for tick, frame, original in zip(self._ticks, waiting, self._originals, strict=True):
            pixels = frame.to_ndarray() if self._dithered else None
            frame.time_base, frame.pts = _TICK, tick
            frames.push(frame)
            yield from (PalettePicture(picture, pixels, original) for picture in _pulled(sink))
        frames.push(None)
        yield from (PalettePicture(picture, None, False) for picture in _pulled(sink))


class WebPReader:
    """Reads an animated WebP through Pillow, because only new versions of FFmpeg can."""

    def __init__(self, path: Path) -> None:
        """Read the file's header.

        Raises:
            OSError: it is missing or cannot be read.
            ValueError: it is not a WebP.
        """
        self.path = path
        self.damage: str | None = None
        with _opened(path) as image:
            image.load()
            shown = Fraction(image.info.get("duration", 0) or 100, 1000)
            self.info = ClipInfo(
                image.width,
                image.height,
                rate=1 / shown,
                time_base=Fraction(1, 1000),
                frame_count=getattr(image, "n_frames", 1),
                colour=SRGB,
                pixel_format="rgba" if image.mode == "RGBA" else "rgb24",
                plays=image.info.get("loop"),
            )

    def __iter__(self) -> Iterator[TimedFrame]:
        form = self.info.pixel_format
        pts = Fraction(0)
        with _opened(self.path) as image:
            for index in range(self.info.frame_count or 1):
                image.seek(index)
                pixels = np.asarray(image.convert("RGBA" if form == "rgba" else "RGB"))
                duration = Fraction(image.info.get("duration", 0) or 100, 1000)
                original = av.VideoFrame.from_ndarray(pixels, form)
                original.opaque = Origin(index)
                yield TimedFrame(pixels, pts, duration, original)
                pts += duration


def last_until(path: Path, end: int) -> None:
    """Show the last picture of an animated WebP until ``end``, in milliseconds from the beginning.

    FFmpeg does not tell libwebp how long that picture is shown, so libwebp takes the mean of the
    others.
    """
    with path.open("r+b") as file:
        durations: list[tuple[int, int]] = []  # place in the file, milliseconds
        file.seek(len(b"RIFF____WEBP"))
        while len(head := file.read(8)) == 8:
            content, size = file.tell(), int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                place = file.seek(content + 12)  # behind x, y, width and height
                durations.append((place, int.from_bytes(file.read(3), "little")))
            file.seek(content + size + size % 2)
        rest = end - sum(duration for _, duration in durations[:-1])
        if durations and 0 < rest < 1 << 24:
            file.seek(durations[-1][0])
            file.write(rest.to_bytes(3, "little"))


def plays_of_gif(path: Path) -> int:
    """Return how often a GIF plays, 0 for endlessly, from the block before its frames."""
    with path.open("rb") as file:
        head = file.read(_GIF_HEAD)
    found = re.search(rb"\x21\xff\x0b(?:NETSCAPE2\.0|ANIMEXTS1\.0)\x03\x01(..)", head, re.DOTALL)
    repeats = int.from_bytes(found[1], "little") if found else None
    if repeats is None:
        return 1
    return repeats + 1 if repeats else 0


def _gif_loop(plays: int | None) -> int:
    """Return FFmpeg's option ``loop``: repeats after the first play, 0 for endless, -1 for none."""
    if not plays:
        return 0
    return -1 if plays == 1 else min(plays - 1, 65535)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=["WEBP"])
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a WebP that can be read.") from error
    with image:
        yield image


def _buffer(graph: Graph, width: int, height: int) -> FilterContext:
    add_buffer: Any = graph.add_buffer  # PyAV 18's type hint does not allow a format's name
    return add_buffer(width=width, height=height, format="bgra", time_base=_TICK)


def _graph(info: ClipInfo, filters: list[tuple[str, str]]) -> Graph:
    """Return a graph that passes pictures through filters, one after the other."""
    graph = Graph()
    nodes = [graph.add(name, arguments) for name, arguments in filters]
    graph.link_nodes(_buffer(graph, info.width, info.height), *nodes, graph.add("buffersink"))
    return graph.configure() or graph


def _pulled(sink: FilterContext) -> Iterator[av.VideoFrame]:
    while True:
        try:
            picture = sink.pull()
        except (NothingYet, NothingLeft):
            return
        assert isinstance(picture, av.VideoFrame)
        yield picture
