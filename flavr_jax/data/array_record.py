# SPDX-License-Identifier: Apache-2.0
"""Data sets packed into a few large files: any frame in one seek, none of a million small ones.

A TFDS builder writes ArrayRecord shards, a record a frame, as the bytes of an image file; nothing
of TensorFlow is needed for that, and to read them not even TFDS. A record a frame, not a record a
clip: a window of an 8× protocol needs 11 of 25 frames, and only those are read. What the data set
asks for goes along as metadata, so that a packed data set is trained and scored on like the folder
it came from.
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
from flavr_jax.partial import Partial

__all__ = ["Encoding", "PackedClip", "is_packed", "pack", "read"]

Encoding: TypeAlias = Literal["original", "png", "jpeg", "raw"]
"""How frames are stored. All but ``jpeg`` (quality 95, full colour resolution) keep every pixel;
``original`` keeps the very files, ``raw`` is largest and needs no decoding."""

_SPLIT = "frames"
_AHEAD = 64  # frames encoded at a time
# TensorFlow's messages from the outside in, and the number of the field that is followed.
_NESTING = (("Example", 1), ("Features", 1), ("Entry", 2), ("Feature", 1), ("BytesList", 1))


@dataclasses.dataclass(frozen=True)
class PackedClip:
    """A run of records as a clip.

    Attributes:
        name: unique within its data set.
        source: the records of the whole data set.
        first: the record of the first frame.
        length: number of frames.
    """

    name: str
    source: Any
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Picture:
        """One frame, decoded."""
        return decode(self.encoded(index), where=f"frame {index} of {self.name}")

    def encoded(self, index: int) -> bytes:
        """One frame as it is stored.

        Raises:
            IndexError: the clip has no such frame.
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
    """Write sequences into a new folder, which appears when it is complete.

    Args:
        sequences: what to pack; every frame of their clips is.
        output: the folder.
        name: what the data set is called in the metadata.
        encoding: how frames are stored.
        short_side: scale frames down to so many pixels on their shorter side; ``original`` frames
            cannot be scaled.
        threads: how many frames are encoded at once.
        track: wraps the frames as they are written, to show progress.

    Raises:
        ModuleNotFoundError: without the extra ``train``.
        FileExistsError: when there is such a folder.
        ValueError: when original frames are to be scaled.
    """
    tfds = _tfds()
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it or pack to another folder.")
    if short_side is not None and encoding == "original":
        raise ValueError("original files cannot be scaled; choose encoding png, jpeg or raw.")
    sequences = list(sequences)
    encode = functools.partial(_encode, encoding=encoding, short_side=short_side)
    frames = track(_ordered(encode, _frames(sequences), threads))
    metadata = {"name": name, "sequences": _index(sequences)}
    with Partial(output, folder=True) as partial:
        tfds.disable_progress_bar()  # its bars and lines would mix with ours
        with contextlib.redirect_stdout(None):
            builder_class = _builder(tfds, frames, metadata)
            builder = builder_class(data_dir=partial.path, file_format="array_record")
            builder.download_and_prepare()
        partial.commit(Path(builder.data_path))


def is_packed(root: Path) -> bool:
    """Whether a folder is one that ``pack`` wrote."""
    return (root / "dataset_info.json").is_file() and (root / "metadata.json").is_file()


def read(root: Path) -> list[Sequence]:
    """The sequences that were packed into a folder, by random access to its shards.

    Raises:
        ModuleNotFoundError: without the extra ``train``.
        ValueError: when the folder holds something else.
    """
    shards = sorted(root.glob(f"*-{_SPLIT}.array_record-*"))
    about = json.loads((root / "metadata.json").read_text()) if is_packed(root) else {}
    index = about.get("sequences")
    if index is None or not shards:
        raise ValueError(
            f"{root} holds no data set that this project packed; scripts/prepare_data.py packs one."
        )
    source = _shards(shards)
    sequences, first = [], 0
    for entry in index:
        clip = PackedClip(entry["name"], source, first, entry["length"])
        first += clip.length
        if "inputs" in entry:
            targets = tuple(map(tuple, entry["targets"]))
            sequences.append(Sequence(clip, entry["factor"], tuple(entry["inputs"]), targets))
        else:
            sequences.append(regular(clip, entry["factor"]))
    return sequences


def _builder(tfds: Any, frames: Iterable[bytes], about: dict[str, Any]) -> Any:
    """A builder class that writes these frames; defined here, for TFDS may not be installed."""
    with tfds.core.registered.skip_registration():

        class Clips(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            code_path = None  # nothing is downloaded: there are no checksums beside the code

            def _info(self) -> Any:
                data = tfds.features.Tensor(shape=(), dtype=np.object_)  # bytes, in TFDS's words
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"{about['name']}: video frames, clip after clip.",
                    features=tfds.features.FeaturesDict({"image": data}),
                    disable_shuffling=True,
                    metadata=tfds.core.MetadataDict(about),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {_SPLIT: self._generate_examples()}

            def _generate_examples(self) -> Iterator[tuple[int, dict[str, bytes]]]:
                for number, data in enumerate(frames):
                    yield number, {"image": data}

    return Clips


def _index(sequences: list[Sequence]) -> list[dict[str, Any]]:
    """What to rebuild sequences from; those of the common rule need but name, length and factor."""
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


def _ordered(
    encode: Callable[[tuple[Clip, int]], bytes], frames: Iterator[tuple[Clip, int]], threads: int
) -> Iterator[bytes]:
    """Encoded frames in order, a bounded number of them ahead."""
    with ThreadPoolExecutor(threads) as pool:
        while some := list(itertools.islice(frames, _AHEAD)):
            yield from pool.map(encode, some)


def _encode(frame: tuple[Clip, int], *, encoding: Encoding, short_side: int | None) -> bytes:
    clip, index = frame
    if encoding == "original":
        return clip.encoded(index)
    picture = clip.read(index)
    if short_side is not None and min(picture.shape[:2]) > short_side:
        scale = short_side / min(picture.shape[:2])
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        kind = Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.LANCZOS
        picture = np.asarray(Image.fromarray(picture).resize(size, kind))
    return encode(picture, encoding)


def _shards(paths: list[Path]) -> Any:
    """All records of these files, by number."""
    try:
        from array_record.python import array_record_data_source
    except ModuleNotFoundError as error:
        raise _without(error) from error
    return array_record_data_source.ArrayRecordDataSource(paths)


def _payload(record: bytes) -> bytes:
    """The image in a record, which wraps it in TensorFlow's message ``Example``."""
    message = _example().FromString(record)
    for _ in _NESTING:
        message = message.inside
    return message


@functools.cache
def _example() -> Any:
    """That message's class, made here of what is used of it: TensorFlow and TFDS are large."""
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
        raise _without(error) from error
    return tensorflow_datasets


def _without(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"packed data needs {error.name}; run pip install 'flavr-jax[train]'."
    )
