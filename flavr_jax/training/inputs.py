# SPDX-License-Identifier: Apache-2.0
"""Where batches come from: drawn within the step, read from disk, or both side by side.

What is drawn depends on the step's number alone. What is read has a position, which is saved with
the state; so a resumed run sees what an uninterrupted one would have seen.
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
from flavr_jax.training.parallel import Parallel
from flavr_jax.training.tasks import LabelledBatch

__all__ = ["Drawn", "Feed", "Inputs", "LabelledInputs", "Nothing", "Read", "ReadConfig"]

_HELD_OUT = 50  # every so many clips one is kept for validation


@runtime_checkable
class Feed(Protocol):
    """What is read for one step after the other, on the device."""

    def __next__(self) -> PyTree: ...

    def get_state(self) -> dict[str, Any]:
        """Where the next one is: plain values."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on there."""
        ...


@runtime_checkable
class Inputs(Protocol):
    """A source of batches; hashable, for compiled steps are kept by it."""

    @property
    def batch_size(self) -> int:
        """Samples a step, over all devices."""
        ...

    @property
    def resident(self) -> PyTree:
        """Arrays that every device keeps throughout."""
        ...

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """What is read, from the beginning."""
        ...

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> Any:
        """One of the ``parts`` of a step's batch, within the step.

        Args:
            key: the same in all parts.
            part: which one.
            parts: how many there are.
            fetched: what was read for this part.
            resident: see there.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """How windows are read from data sets on disk; see :class:`pipeline.LoaderConfig`.

    Attributes:
        spacings: frames between inputs; one is drawn.
        shutters: over how many frames light is gathered; one is drawn.
        threads: that read and decode, in each process of the loader.
        workers: processes of the loader; 0 reads in this process.
    """

    spacings: tuple[int, ...] = (2,)
    shutters: tuple[int, ...] = (1,)
    threads: int = 8
    workers: int = 0


class Nothing:
    """The feed of inputs that read nothing."""

    def __next__(self) -> None:
        """Nothing."""

    def get_state(self) -> dict[str, Any]:
        """Nothing to know."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Windows drawn on the device: synthetic ones, and cuts from clips that it holds.

    Attributes:
        n_outputs: frames sought in a window.
        config: what a batch is made of.
        real: clips, placed on every device.
    """

    n_outputs: int
    config: mixture.MixtureConfig
    real: mixture.RealClips | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def batch_size(self) -> int:
        """Windows a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """The clips."""
        return self.real

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Nothing is read."""
        return Nothing()

    def batch(
        self, key: Key[Array, ""], part: Array, parts: int, fetched: PyTree, resident: PyTree
    ) -> mixture.Batch:
        """See :class:`Inputs`."""
        return mixture.draw(key, self.n_outputs, self.config, resident, part=part, parts=parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Windows of data sets on disk, and synthetic ones beside them.

    Attributes:
        n_outputs: frames sought in a window.
        clips: what windows are cut from.
        reading: how.
        config: what a batch is made of.
        seed: of the order in which they are read.
    """

    n_outputs: int
    clips: Sequence[Clip]
    reading: ReadConfig
    config: mixture.MixtureConfig
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Windows a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """Nothing."""
        return None

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Windows of all clips but the held out ones, or in validation of those.

        Each process reads its share of them.
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
        return mixture.Batch(*(jnp.concatenate(both) for both in zip(drawn, read)))

    def _clips(self, validation: bool) -> list[Clip]:
        """Every 50th clip for validation, the others for training; a single one serves both."""
        held_out = list(self.clips[::_HELD_OUT])
        rest = [clip for number, clip in enumerate(self.clips) if number % _HELD_OUT]
        return held_out if validation else rest or held_out

    def _synthetic(self) -> int:
        """Synthetic windows in a batch."""
        return round(self.batch_size * self.config.synthetic_share)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledInputs:
    """Clips and the classes that they are of.

    Attributes:
        training: clips to learn from.
        held_out: clips for validation.
        config: what is cut from them.
        seed: of order and cuts.
    """

    training: labelled.LabelledClips
    held_out: labelled.LabelledClips
    config: labelled.LabelledConfig
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Clips a step, over all devices."""
        return self.config.batch_size

    @property
    def resident(self) -> PyTree:
        """Nothing."""
        return None

    def feed(self, parallel: Parallel, *, validation: bool = False) -> Feed:
        """Each process's share of every batch."""
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
    """A loader whose batches become what the step takes as its own."""

    def __init__(self, loader: Feed, parallel: Parallel) -> None:
        self._loader, self._parallel = loader, parallel

    def __next__(self) -> PyTree:
        return self._parallel.distribute(next(self._loader))

    def get_state(self) -> dict[str, Any]:
        return self._loader.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._loader.set_state(state)
