# SPDX-License-Identifier: Apache-2.0
"""Films with all that one has beside its pictures, and readers of what was written."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet

from flavr_jax.video.files.encoders import Encoding

STYLES = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\n\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
RATE = 48000
FAST = Encoding(preset="ultrafast")


def add_sound(container, codec):
    stream = container.add_stream(codec, rate=RATE, layout="stereo")
    stream.metadata.update(language="fra", title="Commentaire")
    stream.disposition = Disposition.comment | Disposition.default
    return stream


def sound(stream, seconds):
    for start in range(0, int(seconds * RATE), 1024):
        wave = 0.5 * np.sin(np.arange(start, start + 1024) * 2 * np.pi * 440 / RATE)
        frame = av.AudioFrame.from_ndarray(
            np.stack([wave, wave]).astype(np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def subtitles(stream, texts):
    for index, text in enumerate(texts):
        event = SubtitleSet.create(f"{index},0,Default,,0,0,0,,{text}".encode(), start=0, end=300)
        packet = stream.codec_context.encode_subtitle(event)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 500 * index + 100
        packet.duration = 300
        yield packet


def write_film(path, *, codec="aac", text=("srt",), attachment=True, chapters=True):
    """Writes a second of video with all that a film has beside it."""
    cover = io.BytesIO()
    imageio.imwrite(cover, np.full((16, 16, 3), 99, np.uint8), extension=".jpg")
    with av.open(str(path), "w") as container:
        container.metadata.update(title="Film", creation_time="2020-01-02T03:04:05.000000Z")
        video = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.metadata["language"] = "deu"
        audio = add_sound(container, codec)
        texts = [container.add_stream(kind) for kind in text]
        for stream in texts:
            stream.codec_context.subtitle_header = STYLES
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.metadata["language"] = "eng"
            stream.disposition = Disposition.forced
        if attachment:
            container.add_attachment("font.ttf", "font/ttf", b"a font")
            container.add_attachment("cover.jpg", "image/jpeg", cover.getvalue())
        if chapters:
            container.set_chapters(
                [
                    {"id": n + 1, "start": 500 * n, "end": 500 * n + 500,
                     "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                    for n, title in enumerate(("one", "two"))
                ]
            )  # fmt: skip
        container.start_encoding()
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        container.mux(list(sound(audio, 1)))
        for stream in texts:
            container.mux(list(subtitles(stream, ("Hello", "Bye"))))
    return path


def kinds(path):
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.codec_context.name if stream.codec_context else None)
            for stream in container.streams
        ]


def texts(path):
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base.numerator / packet.time_base.denominator, bytes(packet))
            for packet in container.demux(subtitles=0)
            if packet.size > 2
        ]


def samples(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    # Packed formats have both channels in one row.
    return np.concatenate([f[0] if len(f) == 2 else f[0, ::2] for f in frames])


def seconds_of_sound(path, index=0):
    with av.open(str(path)) as container:
        return sum(f.samples / f.sample_rate for f in container.decode(audio=index))


def made_by(ffmpeg, path, *arguments, seconds=1):
    """A file with a second of video and what ``arguments`` add."""
    ffmpeg("-y", "-f", "lavfi", "-i", f"smptebars=s=64x48:r=24:d={seconds}", *arguments, path)
    return path


SINE = ("-f", "lavfi", "-i", "sine=440:r=44100:d=1")
