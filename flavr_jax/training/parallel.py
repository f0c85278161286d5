# SPDX-License-Identifier: Apache-2.0
"""One function for one device, run by all devices of all hosts at once.

``jax.pmap`` does this by default; ``shard_map`` under ``jit`` is its successor and gives the same
numbers. Under shard_map the check of replication is off: with it, gradients with respect to
replicated parameters arrive summed over devices, and averaging them again is wrong by their number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

__all__ = ["AXIS", "Mapped", "Parallel", "Strategy", "initialize", "to_host"]

AXIS = "data"
"""The name of the axis that devices lie along, for ``lax.pmean`` and the like."""

Strategy: TypeAlias = Literal["pmap", "shard_map"]
Mapped: TypeAlias = Callable[[PyTree, PyTree, PyTree], PyTree]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """All devices of all processes, or some of one process's.

    Attributes:
        strategy: how a function is mapped.
        devices: those of this process; None is all of them.
    """

    strategy: Strategy = "pmap"
    devices: tuple[jax.Device, ...] | None = None  # pyright: ignore[reportInvalidTypeForm]

    @property
    def local(self) -> tuple[jax.Device, ...]:  # pyright: ignore[reportInvalidTypeForm]
        """This process's devices."""
        return self.devices or tuple(jax.local_devices())

    @property
    def size(self) -> int:
        """Devices over all processes."""
        return len(self.local) * jax.process_count()

    def map(self, function: Callable[[Any, Any, Any], Any], *, donate: bool = True) -> Mapped:
        """``function(carried, shared, own)`` on every device.

        ``carried`` and ``shared`` are the same on every device, and so must the result be;
        ``carried`` is donated. A device's ``own`` is its part of arrays cut along their first axis.
        Place arguments with ``replicate`` and ``distribute`` first: without, every call would copy
        them again, and what is donated would be lost.
        """
        donated = (0,) if donate else ()
        if self.strategy == "pmap":
            return jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=(None, None, 0),  # type: ignore[arg-type]
                out_axes=None,  # type: ignore[arg-type]
                donate_argnums=donated,
                devices=self.devices,
            )
        mapped = jax.shard_map(
            function,
            mesh=self._mesh(),
            in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)

    def replicate(self, tree: PyTree) -> PyTree:
        """A copy of every array on each device."""
        sharding = NamedSharding(self._mesh(), PartitionSpec())
        if self.strategy == "shard_map" and jax.process_count() > 1:
            return jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
                tree,
            )
        return jax.device_put(tree, sharding)

    @property
    def incoming(self) -> NamedSharding:
        """Where a loader puts this process's batches: cut along the first axis, a part a device."""
        return NamedSharding(Mesh(np.array(self.local), (AXIS,)), PartitionSpec(AXIS))

    def distribute(self, tree: PyTree) -> PyTree:
        """Arrays of this process, as long as ``own`` is on all its devices, as ``map`` takes them.

        Arrays that lie as ``incoming`` says are not moved.
        """
        tree = jax.device_put(tree, self.incoming)
        if self.strategy == "pmap":
            return _fold(self.incoming)(tree)
        if jax.process_count() == 1:
            return tree
        sharding = NamedSharding(self._mesh(), PartitionSpec(AXIS))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_single_device_arrays(
                (len(leaf) * jax.process_count(), *leaf.shape[1:]),
                sharding,
                [shard.data for shard in leaf.addressable_shards],
            ),
            tree,
        )

    def _mesh(self) -> Mesh:
        everywhere = self.strategy == "shard_map" and self.devices is None
        return Mesh(np.array(jax.devices() if everywhere else self.local), (AXIS,))


@functools.cache
def _fold(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    """Cuts the first axis into devices and the rest of it, as pmap has it; nothing moves."""
    count = sharding.mesh.size
    return jax.jit(
        lambda leaves: jax.tree.map(
            lambda leaf: leaf.reshape(count, len(leaf) // count, *leaf.shape[1:]), leaves
        ),
        out_shardings=sharding,
    )


def to_host(tree: PyTree) -> PyTree:
    """NumPy copies; never views, for a donated buffer is written to while the copy is saved."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Join the processes of one run, before anything else touches a device.

    Args:
        coordinator: ``host:port`` of process 0; without it or ``detect`` there is one process.
        processes: how many there are.
        process: which this is.
        detect: find these three in the environment of a Slurm or Open MPI job, or of a Kubernetes
            one (which takes ``jax[k8s]``).

    Raises:
        ValueError: when some of the three are given and others not.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                f"coordinator, processes and process are {given}; give all three, or none."
            )
        jax.distributed.initialize(coordinator, processes, process)
    elif detect:
        jax.distributed.initialize()
