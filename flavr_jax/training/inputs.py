# SPDX-License-Identifier: Apache-2.0
"""Sources of training batches: windows drawn inside the step, read from disk, or both.

Drawn windows depend only on the step's number. A reader has a position, which is saved with the
state, so that a resumed run sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, PyTree

from flavr_jax.data import labelled, mixture, pipeline
from flavr_jax.data.sequences import Clip
from flavr_jax.data.synthetic import magnified
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.tasks import LabelledBatch

__all__ = [
    "Drawn",
    "Feed",
    "Inputs",
    "LabelledInputs",
    "Magnified",
    "Nothing",
    "Read",
    "ReadConfig",
]

_HELD_OUT = 50  # every 50th clip is kept for validation


@runtime_checkable
class Feed(Protocol):
    """Iterator over the data read for each step, placed on the devices."""

    def __next__(self) -> PyTree: ...

    def get_state(self) -> dict[str, Any]:
        """Return the position of the next element, as JSON values."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position that ``get_state`` returned."""
        ...


@runtime_checkable
class Inputs(Protocol):
    """Source of batches; hashable, because it is part of the cache key of compiled steps."""

    @property
    def batch_size(self) -> int:
        """Samples in a step, over all devices."""
        ...

    @property
    def resident(self) -> PyTree:
        """Arrays that every device keeps during the whole run; None for none."""
        ...

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Start reading from the beginning, for training or for validation."""
        ...

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> Any:
        """Make one part of a step's batch; called inside the compiled step.

        Args:
            key: random key, equal in all parts.
            part: index of the part, from 0.
            parts: number of parts.
            fetched: data that the feed read for this part.
            resident: the arrays of :attr:`resident`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """Settings for reading windows from data sets on disk; see :class:`pipeline.LoaderConfig`.

    Attributes:
        spacings: distances between input frames, in frames of the clip; each window draws one.
        shutters: numbers of frames that are averaged into one, as a longer exposure would; each
            window draws one.
        threads: number of threads that read and decode in each process of the loader.
        workers: number of processes of the loader; 0 reads in this process.
    """

    spacings: tuple[int, ...] = (2,)
    shutters: tuple[int, ...] = (1,)
    threads: int = 8
    workers: int = 0


class Nothing:
    """Feed of inputs that read nothing: an endless iterator of None."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        """Return no position."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Accept the empty position."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Windows made on the device: synthetic ones, and crops of clips in its memory.

    Attributes:
        n_outputs: frames to predict in each window.
        config: composition of a batch.
        real: clips on every device; None makes all windows synthetic.
        photographs: textures for synthetic windows on every device.
    """

    n_outputs: int
    config: mixture.MixtureConfig
    # Arrays cannot be hashed. The step gets them as arguments, so they are no part of its cache
    # key.
    real: mixture.RealClips | None = dataclasses.field(default=None, compare=False, repr=False)
    photographs: Array | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def batch_size(self) -> int:
        """Windows in a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """The clips and the photographs, as far as there are any."""
        return self.real, self.photographs

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Return an empty feed, since nothing is read."""
        return Nothing()

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> mixture.Batch:
        """See :class:`Inputs`."""
        return mixture.draw(key, self.n_outputs, self.config, *resident, part=part, parts=parts)


@dataclasses.dataclass(frozen=True)
class Magnified:
    """Clips of small motion with their magnified truth, drawn on the device.

    Attributes:
        config: content and motion.
        photographs: textures on every device.
    """

    config: magnified.MagnifiedConfig
    # See `Drawn`.
    photographs: Array | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def batch_size(self) -> int:
        """Samples in a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """The photographs, if there are any."""
        return self.photographs

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Return an empty feed, since nothing is read."""
        return Nothing()

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> magnified.Sample:
        """See :class:`Inputs`."""
        numbers = part + parts * jnp.arange(self.batch_size // parts)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return jax.vmap(lambda key: magnified.draw(key, self.config, resident))(keys)


# Hashed by identity: a list of clips has no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Windows read from data sets on disk, mixed with synthetic ones.

    Attributes:
        n_outputs: frames to predict in each window.
        clips: clips from which windows are cut.
        reading: how windows are read.
        config: composition of a batch.
        seed: seed of the order of reading.
    """

    n_outputs: int
    clips: Sequence[Clip]
    reading: ReadConfig
    config: mixture.MixtureConfig
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Windows in a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """None: all windows are read or drawn."""
        return None

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Read windows of the training clips, or of the held-out clips for validation.

        Each process reads its share of every batch.
        """
        config = pipeline.LoaderConfig(
            **dataclasses.asdict(self.reading),
            crop=self.config.crop,
            batch_size=(self.batch_size - self._synthetic()) // jax.process_count(),
            seed=self.seed,
        )
        loader = pipeline.Loader(
            self._clips(validation),
            self.n_outputs,
            config,
            process=jax.process_index(),
            processes=jax.process_count(),
            sharding=parallel.incoming,
        )
        return _Distributed(loader, parallel)

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> mixture.Batch:
        """See :class:`Inputs`."""
        key_synthetic, key_change = jax.random.split(key)
        read = mixture.from_windows(jax.random.fold_in(key_change, part), fetched, self.config)
        if not self._synthetic():
            return read
        if self._synthetic() % parts:
            raise ValueError(
                f"`synthetic_share` is {self.config.synthetic_share}: {self._synthetic()} windows "
                f"of {self.batch_size} do not divide into {parts} parts; choose another share."
            )
        config = dataclasses.replace(self.config, batch_size=self._synthetic())
        drawn = mixture.draw(key_synthetic, self.n_outputs, config, None, part=part, parts=parts)
        return jax.tree.map(lambda *both: jnp.concatenate(both), drawn, read)

    def _clips(self, validation: bool) -> list[Clip]:
        """Return every 50th clip for validation, else the others; a single clip serves both."""
        held_out = list(self.clips[::_HELD_OUT])
        rest = [clip for number, clip in enumerate(self.clips) if number % _HELD_OUT]
        return held_out if validation else rest or held_out

    def _synthetic(self) -> int:
        """Number of synthetic windows in a batch."""
        return round(self.batch_size * self.config.synthetic_share)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledInputs:
    """Labelled clips for a classifier.

    Attributes:
        training: clips to train on.
        held_out: clips to validate on.
        config: how clips are cut.
        seed: seed of the order and of the cuts.
    """

    training: labelled.LabelledClips
    held_out: labelled.LabelledClips
    config: labelled.LabelledConfig
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Clips in a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """None: all windows are read or drawn."""
        return None

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Read this process's share of every batch."""
        loader = labelled.LabelledLoader(
            self.held_out if validation else self.training,
            self.config,
            training=not validation,
            seed=self.seed,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        return _Distributed(loader, parallel)

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> LabelledBatch:
        """See :class:`Inputs`."""
        return LabelledBatch(fetched[0].astype(jnp.float32) / 255.0, fetched[1])


class _Distributed(Iterator[PyTree]):
    """Feed that places a loader's batches on the devices in the layout that the step expects."""

    def __init__(self, loader: Feed, parallel: Parallel) -> None:
        self._loader, self._parallel = loader, parallel

    def __next__(self) -> PyTree:
        return self._parallel.distribute(next(self._loader))

    def get_state(self) -> dict[str, Any]:
        return self._loader.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._loader.set_state(state)
