# SPDX-License-Identifier: Apache-2.0
"""Mapping a function of one device over all devices of all hosts.

The default is ``jax.pmap``; ``shard_map`` under ``jit`` is its successor and gives the same
numbers. The check of replication is off under shard_map, because with it gradients with respect to
replicated parameters arrive already summed over devices; the step's mean would then be too large
by the number of devices.
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
    """Processes that train together, usually one a host.

    Attributes:
        coordinator: host:port of process 0, if there are several processes.
        processes: number of processes.
        process: number of this process, from 0.
        cluster: find these three in the environment of a Slurm or Open MPI job, or with jax[k8s] of
            a Kubernetes job.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    cluster: bool = False


@dataclasses.dataclass(frozen=True)
class Parallel:
    """The devices of a run: all devices of all processes, or some devices of one process.

    Attributes:
        strategy: how a function is mapped.
        devices: this process's devices; None for all that it has.
    """

    strategy: Strategy = "pmap"
    devices: tuple[jax.Device, ...] | None = None  # pyright: ignore[reportInvalidTypeForm]

    @property
    def local(self) -> tuple[jax.Device, ...]:  # pyright: ignore[reportInvalidTypeForm]
        """Devices of this process."""
        return self.devices or tuple(jax.local_devices())

    @property
    def size(self) -> int:
        """Number of devices of all processes."""
        return len(self.local) * jax.process_count()

    def map(self, function: Callable[[Any, Any, Any], Any], *, donate: bool = True) -> Mapped:
        """Map ``function(carried, shared, own)`` over all devices.

        ``carried`` and ``shared`` are equal on all devices, and so must the result be. ``own`` is
        cut along the first axis of its arrays, a part a device. Place the arguments with
        ``replicate`` and ``distribute`` first; otherwise every call copies them, and a donated
        argument frees nothing.

        Args:
            function: what one device computes.
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
        # device_put cannot reach the devices of other processes; each process gives its own copy.
        if self.strategy == "shard_map" and jax.process_count() > 1:
            return jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
                tree,
            )
        return jax.device_put(tree, sharding)

    @property
    def incoming(self) -> NamedSharding:
        """Sharding of this process's batches: cut along the first axis, a part a device."""
        return NamedSharding(Mesh(np.array(self.local), (AXIS,)), PartitionSpec(AXIS))

    def distribute(self, tree: PyTree) -> PyTree:
        """Turn this process's arrays into the ``own`` of a mapped function.

        The first axis is as long as that of ``own`` on all of this process's devices together.
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
        everywhere = self.strategy == "shard_map" and self.devices is None
        return Mesh(np.array(jax.devices() if everywhere else self.local), (AXIS,))


@functools.cache
def _fold(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    """Return a function that splits the first axis into devices and a rest, without a copy."""
    count = sharding.mesh.size
    return jax.jit(
        lambda leaves: jax.tree.map(
            lambda leaf: leaf.reshape(count, len(leaf) // count, *leaf.shape[1:]), leaves
        ),
        out_shardings=sharding,
    )


def to_host(tree: PyTree) -> PyTree:
    """Copy arrays to the host.

    Views would be wrong: the next step reuses a donated buffer while its copy is being saved.
    """
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def initialize(hosts: Hosts) -> None:
    """Join the processes of one run, before anything else touches a device.

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
