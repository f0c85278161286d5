# SPDX-License-Identifier: Apache-2.0
"""Mapping a function of one device over all devices of all hosts.

The default is ``jax.pmap``; ``shard_map`` under ``jit`` is its successor and gives the same
numbers. With ``shard_map``, the check of replication (``check_vma``) is off: it would make JAX sum
the gradients of replicated parameters over devices, and the step's own mean would then be too large
by a factor of the number of devices.
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

__all__ = ["AXIS", "Hosts", "Mapped", "Parallel", "Strategy", "initialize", "to_host"]

AXIS = "data"
"""Name of the axis of devices, for ``lax.pmean`` and the like."""

Strategy: TypeAlias = Literal["pmap", "shard_map"]
Mapped: TypeAlias = Callable[[PyTree, PyTree, PyTree], PyTree]


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Processes that train together, usually one per host.

    Attributes:
        coordinator: host:port of process 0, if there are several processes.
        processes: number of processes.
        process: index of this process, from 0.
        cluster: take these three from the environment of a Slurm or Open MPI job, or, with
            jax[k8s], of a Kubernetes job.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    cluster: bool = False


@dataclasses.dataclass(frozen=True)
class Parallel:
    """The devices of a run: all devices of all processes, or some devices of one process.

    Attributes:
        strategy: how a function is mapped over devices.
        devices: devices of this process to use; None for all.
    """

    strategy: Strategy = "pmap"
    devices: tuple[jax.Device, ...] | None = None  # pyright: ignore[reportInvalidTypeForm]

    @property
    def local(self) -> tuple[jax.Device, ...]:  # pyright: ignore[reportInvalidTypeForm]
        """Devices of this process."""
        return self.devices or tuple(jax.local_devices())

    @property
    def size(self) -> int:
        """Number of devices over all processes."""
        return len(self.local) * jax.process_count()

    def map(self, function: Callable[[Any, Any, Any], Any], *, donate: bool = True) -> Mapped:
        """Map ``function(carried, shared, own)`` over all devices.

        ``carried`` and ``shared`` are equal on all devices, and the result must be, too. The arrays
        of ``own`` are split along their first axis, one part per device. Place the arguments with
        ``replicate`` and ``distribute`` first; otherwise every call copies them, and donating them
        saves no memory.

        Args:
            function: computation of one device.
            donate: whether the buffers of ``carried`` may be reused for the result.
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
        """Copy every array to each device."""
        sharding = NamedSharding(self._mesh(), PartitionSpec())
        # device_put cannot reach devices of other processes, so each process provides its own copy.
        if self.strategy == "shard_map" and jax.process_count() > 1:
            return jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
                tree,
            )
        return jax.device_put(tree, sharding)

    @property
    def incoming(self) -> NamedSharding:
        """Sharding of this process's batches: along the first axis, one part per device."""
        return NamedSharding(Mesh(np.array(self.local), (AXIS,)), PartitionSpec(AXIS))

    def distribute(self, tree: PyTree) -> PyTree:
        """Turn this process's arrays into the argument ``own`` of a mapped function.

        Their first axis holds the parts of all devices of this process.
        Arrays already sharded like ``incoming`` are not moved.
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
        # pmap takes arrays of this process's devices only.
        everywhere = self.strategy == "shard_map" and self.devices is None
        return Mesh(np.array(jax.devices() if everywhere else self.local), (AXIS,))


@functools.cache
def _fold(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    """Return a function that splits the first axis into devices and the rest, without a copy."""
    count = sharding.mesh.size
    return jax.jit(
        lambda leaves: jax.tree.map(
            lambda leaf: leaf.reshape(count, len(leaf) // count, *leaf.shape[1:]), leaves
        ),
        out_shardings=sharding,
    )


def to_host(tree: PyTree) -> PyTree:
    """Copy arrays to the host.

    Views of device buffers would be wrong: the next step reuses donated buffers while the state is
    still being saved.
    """
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def initialize(hosts: Hosts) -> None:
    """Connect the processes of one run; call it before anything else uses a device.

    Raises:
        ValueError: some of ``coordinator``, ``processes`` and ``process`` are given, but not all.
    """
    given = (hosts.coordinator, hosts.processes, hosts.process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                f"coordinator, processes and process are {given}; give all three, or none."
            )
        jax.distributed.initialize(*given)
    elif hosts.cluster:
        jax.distributed.initialize()
