# SPDX-License-Identifier: Apache-2.0
"""Undamaged files of every kind for the fuzzer, and the program that reads each."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import flavr_jax

# Each case runs in a fork of this process. What commands import late is imported here, once.
import flavr_jax.commands.convert
import flavr_jax.commands.inspection
import flavr_jax.commands.interpolate
import flavr_jax.commands.interpolation
from flavr_jax import checkpoint, cli, commands, torch_weights
from flavr_jax.config import ModelConfig
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.devices import Replicas
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr
from flavr_jax.video.files.formats import CONTAINERS
from flavr_jax.video.pixels.picture import Resident

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "tests" / "data" / "pytorch"
NETWORK = ModelConfig(width=1, n_outputs=7, base="blend")
VIDEOS = {
    "a.mp4": "mpeg4", "a.mkv": "ffv1", "a.avi": "mjpeg", "a.gif": "gif", "b.mp4": "libx264",
    "a.webm": "libvpx-vp9", "a.ts": "mpeg2video", "a.mov": "prores_ks", "b.mkv": "libsvtav1",
    "a.y4m": "wrapped_avframe",
}  # fmt: skip
IMAGES = ("png", "jpg", "webp", "tiff", "bmp")
# Damage turns these into other options, values and names.
ARGUMENTS = (
    "--factor", "2", "--fps", "23.976", "--slow-motion", "--exact-times", "--largest-error",
    "1/2000", "--cut", "blend", "--dedup", "--range", "0-00:00:00.25", "--input-rate", "24000/1001",
    "--codec", "ffv1", "--crf", "18", "--preset", "medium", "--pixel-format", "yuv420p", "--audio",
    "stretch", "--images", "png", "--segment", "3", "--verify", "--no-resume", "--json",
)  # fmt: skip


Program = Callable[[Path, Path], None]
"""Function of an input and an output folder that behaves, and ends, like a command line."""


def make_originals(folder: Path) -> dict[str, tuple[Path, Program]]:
    """Write undamaged files; return the path and the program of each, by its name."""
    folder.mkdir()
    originals: dict[str, tuple[Path, Program]] = {
        **{path.stem: (path, convert) for path in sorted(WEIGHTS.glob("*.pth"))},
        **{name: (folder / name, interpolate) for name in (*VIDEOS, *IMAGES)},
        "safetensors": (folder / "a.safetensors", convert),
        "checkpoint": (folder / "checkpoint", load_checkpoint),
        "arguments": (folder / "arguments", interpolate_as_told),
    }

    def write() -> None:
        for name, codec in VIDEOS.items():
            write_video(folder / name, codec)
        for suffix in IMAGES:
            write_images(folder / suffix, suffix)
        tensors = torch_weights.read(WEIGHTS / "official_8x_legacy.pth").tensors
        (folder / "a.safetensors").write_bytes(safetensors(tensors))
        (folder / "arguments").write_text("\0".join(ARGUMENTS))
        shapes = flavr.parameter_shapes(NETWORK)
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        checkpoint.save(folder / "checkpoint", NETWORK, params)

    # The files are written in a child process, and this process uses no library itself. Libraries
    # start threads when first used, and a lock that a thread holds at the time of a fork stays
    # locked for ever in the child.
    child = os.fork()
    if child == 0:
        try:
            write()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise ValueError("the files to damage could not be made; the error is shown above.")
    return originals


def command(name: str, *arguments: object) -> None:
    """Run a subcommand of ``flavr`` as its command line would."""
    sys.argv = [f"flavr {name}", *map(str, arguments)]
    commands.run(name)


def convert(path: Path, output: Path) -> None:
    """Convert weights, which also reads and reports on every tensor."""
    command("convert", path, "--output", output / "converted")


def interpolate(path: Path, output: Path) -> None:
    """Interpolate a video or a folder of images with a network that repeats frames."""
    flavr_jax.load = lambda *_, **__: RepeatingNetwork()  # pyright: ignore[reportAttributeAccessIssue]
    suffix = path.suffix if path.suffix in CONTAINERS else ".mp4"
    target = "made" if path.is_dir() else f"made{suffix}"
    command("interpolate", path, "--factor", 2, "--output", output / target)


def interpolate_as_told(path: Path, output: Path) -> None:
    """Interpolate an undamaged video with some of the options that a file holds."""
    flavr_jax.load = lambda *_, **__: RepeatingNetwork()  # pyright: ignore[reportAttributeAccessIssue]
    told = os.fsdecode(path.read_bytes()).split("\0")
    generator = random.Random(path.read_bytes())
    chosen: list[str] = []
    for first, second in itertools.pairwise([*told, "--"]):
        if first.startswith("--") and generator.random() < 0.15:
            chosen += [first] if second.startswith("--") else [first, second]
    write_video(output / "in.mkv", "ffv1")
    command("interpolate", output / "in.mkv", *chosen, "--output", output / "made.mkv")


def load_checkpoint(path: Path, _output: Path) -> None:
    """Load a checkpoint as every program with ``--checkpoint`` does."""

    @dataclasses.dataclass(frozen=True)
    class NoOptions:
        """Load a checkpoint."""

    def load(_: NoOptions) -> None:
        checkpoint.load(path)

    sys.argv = ["load"]
    cli.run(load, NoOptions)


class RepeatingNetwork(Interpolator):
    """Stand-in for an 8× network that repeats frames, so that nothing has to be compiled."""

    def __init__(self) -> None:
        self.config, self.provenance, self.boundary = NETWORK, {}, "mirror"
        self.precision, self.runs_on = "fp32", "no device"
        self._replicas = Replicas({})  # no parameters: they would take longer than a case

    def between(
        self,
        frames: np.ndarray | Sequence[Resident],
        factor: int,
        batch: int = 1,
        device: int | None = None,
    ) -> Computation:
        """Repeat the second frame of each window at every time inside its interval."""
        clip = jnp.stack([frame.pixels for frame in frames[1:-2]])
        made = jnp.stack([clip] * (factor - 1), axis=1)
        return Computation(made, jnp.ones(len(made), bool), self.precision)


def pictures() -> list[np.ndarray]:
    """Draw four frames of 48×64 in which stripes move."""
    column = np.arange(64)[None, :, None]
    row = np.arange(48)[:, None, None]
    phase = np.array([0.0, 2.0, 4.0])
    return [
        (127 + 90 * np.sin((column - 3 * n) / 5 + row / 7 + phase)).astype(np.uint8)
        for n in range(4)
    ]


def write_video(path: Path, codec: str) -> None:
    """Write a video of a third of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 64, 48
        formats = {"gif": "rgb8", "mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}
        stream.pix_fmt = formats.get(codec, "yuv420p")
        for picture in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_images(folder: Path, suffix: str) -> None:
    """Write a folder of four images."""
    folder.mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(folder / f"{number}.{suffix}")


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Encode float32 tensors as https://huggingface.co/docs/safetensors describes."""
    entries, position = [], 0
    for name, tensor in tensors.items():
        shape, end = list(tensor.shape), position + tensor.nbytes
        entries.append(
            f'"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{position},{end}]}}'
        )
        position = end
    header = ("{" + ",".join(entries) + "}").encode()
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    return len(header).to_bytes(8, "little") + header + data
