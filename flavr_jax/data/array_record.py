# SPDX-License-Identifier: Apache-2.0
"""Data sets packed into a few large files, from which any frame is read with one seek.

TensorFlow Datasets (TFDS) writes ArrayRecord shards in which each record is one frame, stored as
the bytes of an image file. Writing needs TFDS but not TensorFlow; reading needs only the package
``array-record``. A record holds a frame and not a clip because a window of an 8× protocol needs
only 11 of 25 frames. The inputs and targets of each sequence are stored as metadata, so training
and scoring work on a packed data set as on the folder it came from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from flavr_jax.data.sequences import Clip, Picture, Sequence, decode, encode, regular
from flavr_jax.extras import install_command
from flavr_jax.partial import Partial

__all__ = ["Encoding", "PackedClip", "is_packed", "pack", "read"]

Encoding: TypeAlias = Literal["original", "png", "jpeg", "raw"]
"""How frames are stored. ``original`` copies the image files byte for byte, ``png`` is lossless,
``raw`` is lossless, largest and needs no decoding, ``jpeg`` (quality 95, 4:4:4) is lossy."""

_SPLIT = "frames"
# Frames submitted to the encoders at a time. `pool.map` submits all it is given at once, so the
# whole data set would be held in memory.
_MAX_PENDING = 64
# A TFDS record is a serialised tf.train.Example. These are its nested messages from the outside
# in, with the number of the field that leads to the next one.
_NESTING = (("Example", 1), ("Features", 1), ("Entry", 2), ("Feature", 1), ("BytesList", 1))


@dataclasses.dataclass(frozen=True)
class PackedClip:
    """A clip whose frames are consecutive records.

    Attributes:
        name: unique within its data set.
        source: random access to the records of the whole data set.
        first: number of the record with the clip's first frame.
        length: number of frames.
    """

    name: str
    source: Any
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Picture:
        """Decode one frame."""
        return decode(self.encoded(index), where=f"frame {index} of {self.name}")

    def encoded(self, index: int) -> bytes:
        """Return the stored image file of one frame.

        Raises:
            IndexError: ``index`` is negative or not below the clip's length.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"{self.name} has {self.length} frames, not {index + 1}.")
        return _payload(self.source[self.first + index])


def pack(
    sequences: Iterable[Sequence],
    output: Path,
    *,
    name: str = "clips",
    encoding: Encoding = "original",
    short_side: int | None = None,
    threads: int = 4,
    track: Callable[[Iterable[bytes]], Iterable[bytes]] = lambda frames: frames,
) -> None:
    """Write every frame of the sequences' clips into a new folder of ArrayRecord shards.

    The folder gets its name only when it is complete.

    Args:
        sequences: sequences to pack.
        output: folder to create.
        name: name of the data set, stored in the metadata.
        encoding: how frames are stored.
        short_side: length in pixels to which the shorter side of larger frames is reduced; not
            possible with ``original``.
        threads: number of frames encoded in parallel.
        track: wraps the iterable of encoded frames, to show progress.

    Raises:
        ModuleNotFoundError: the extra ``train`` is not installed.
        FileExistsError: ``output`` exists.
        ValueError: ``short_side`` is given with the encoding ``original``.
    """
    tfds = _tfds()
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it or pack to another folder.")
    if short_side is not None and encoding == "original":
        raise ValueError("original files cannot be scaled; choose encoding png, jpeg or raw.")
    sequences = list(sequences)
    encode = functools.partial(_encode, encoding=encoding, short_side=short_side)
    frames = track(_encode_in_order(encode, _frames(sequences), threads))
    metadata = {"name": name, "sequences": _describe(sequences)}
    with Partial(output, folder=True) as partial:
        tfds.disable_progress_bar()  # TFDS's bars and messages would mix with `track`'s
        with contextlib.redirect_stdout(None):
            builder_class = _builder(tfds, frames, metadata)
            builder = builder_class(data_dir=partial.path, file_format="array_record")
            builder.download_and_prepare()
        partial.commit(Path(builder.data_path))


def is_packed(root: Path) -> bool:
    """Return whether ``root`` looks like a folder written by :func:`pack`."""
    return (root / "dataset_info.json").is_file() and (root / "metadata.json").is_file()


def read(root: Path) -> list[Sequence]:
    """Read the sequences of a packed folder; frames are read from its shards when needed.

    Raises:
        ModuleNotFoundError: the extra ``train`` is not installed.
        ValueError: :func:`pack` did not write the folder.
    """
    shards = sorted(root.glob(f"*-{_SPLIT}.array_record-*"))
    metadata = json.loads((root / "metadata.json").read_text()) if is_packed(root) else {}
    entries = metadata.get("sequences")
    if entries is None or not shards:
        raise ValueError(
            f"{root} holds no data set that this project packed; `flavr prepare-data` packs one."
        )
    source = _open_shards(shards)
    sequences, first = [], 0
    for entry in entries:
        clip = PackedClip(entry["name"], source, first, entry["length"])
        first += clip.length
        if "inputs" in entry:
            targets = tuple(map(tuple, entry["targets"]))
            sequences.append(Sequence(clip, entry["factor"], tuple(entry["inputs"]), targets))
        else:
            sequences.append(regular(clip, entry["factor"]))
    return sequences


def _builder(tfds: Any, frames: Iterable[bytes], metadata: dict[str, Any]) -> Any:
    """Define the TFDS builder class that writes ``frames``.

    The class is local because its base class exists only if TFDS is installed.
    """
    with tfds.core.registered.skip_registration():

        class Clips(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            code_path = None  # keeps TFDS from looking for download checksums beside this file

            def _info(self) -> Any:
                # An object tensor is stored as bytes. TFDS's Image feature would need TensorFlow.
                data = tfds.features.Tensor(shape=(), dtype=np.object_)
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"{metadata['name']}: video frames, clip after clip.",
                    features=tfds.features.FeaturesDict({"image": data}),
                    disable_shuffling=True,  # record numbers are frame numbers
                    metadata=tfds.core.MetadataDict(metadata),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {_SPLIT: self._generate_examples()}

            def _generate_examples(self) -> Iterator[tuple[int, dict[str, bytes]]]:
                for number, data in enumerate(frames):
                    yield number, {"image": data}

    return Clips


def _describe(sequences: list[Sequence]) -> list[dict[str, Any]]:
    """Metadata from which :func:`read` rebuilds the sequences.

    Inputs and targets are stored only where they differ from those of :func:`regular`: for data
    sets with a hundred thousand clips the metadata stays small.
    """
    entries = []
    for each in sequences:
        entry: dict[str, Any] = {
            "name": each.clip.name,
            "length": len(each.clip),
            "factor": each.factor,
        }
        rule = regular(each.clip, each.factor)
        if (each.inputs, each.targets) != (rule.inputs, rule.targets):
            entry |= {"inputs": each.inputs, "targets": each.targets}
        entries.append(entry)
    return entries


def _frames(sequences: list[Sequence]) -> Iterator[tuple[Clip, int]]:
    for sequence in sequences:
        for index in range(len(sequence.clip)):
            yield sequence.clip, index


def _encode_in_order(
    encode: Callable[[tuple[Clip, int]], bytes], frames: Iterator[tuple[Clip, int]], threads: int
) -> Iterator[bytes]:
    """Encode frames in parallel and yield them in order."""
    with ThreadPoolExecutor(threads) as pool:
        while pending := list(itertools.islice(frames, _MAX_PENDING)):
            yield from pool.map(encode, pending)


def _encode(frame: tuple[Clip, int], *, encoding: Encoding, short_side: int | None) -> bytes:
    clip, index = frame
    if encoding == "original":
        return clip.encoded(index)
    picture = clip.read(index)
    if short_side is not None and min(picture.shape[:2]) > short_side:
        scale = short_side / min(picture.shape[:2])
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        # At half the size or less, a box filter averages all pixels without Lanczos's ringing.
        kind = Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.LANCZOS
        picture = np.asarray(Image.fromarray(picture).resize(size, kind))
    return encode(picture, encoding)


def _open_shards(paths: list[Path]) -> Any:
    """Random access by number to the records of all shards."""
    try:
        from array_record.python import array_record_data_source
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    return array_record_data_source.ArrayRecordDataSource(paths)


def _payload(record: bytes) -> bytes:
    """Extract the image file from a record, a serialised ``tf.train.Example``."""
    message = _example_class().FromString(record)
    for _ in _NESTING:
        message = message.inside
    return message


@functools.cache
def _example_class() -> Any:
    """Protocol buffer class that reads the one field used of ``tf.train.Example``.

    It is built here because importing the original means importing TensorFlow.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="flavr_jax")
    for (name, number), (inner, _) in itertools.pairwise([*_NESTING, ("", 0)]):
        field = file.message_type.add(name=name).field.add(name="inside", number=number, label=1)
        field.type = field.TYPE_BYTES
        if inner:
            field.type, field.type_name = field.TYPE_MESSAGE, f".flavr_jax.{inner}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flavr_jax.Example"))


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    return tensorflow_datasets


def _missing_extra(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"packed data needs {error.name}; run {install_command('train')}.")
