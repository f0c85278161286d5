# SPDX-License-Identifier: Apache-2.0
"""Types of values in a kernel body, and wrappers of the Pallas primitives for copies and barriers.

Pallas annotates its primitives with internal classes, which signatures cannot name. The aliases
below stand for them, and :data:`jaxtyping.Shaped` adds shapes.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Int

__all__ = [
    "Accumulator", "Barrier", "Index", "Ref", "Scalar", "arrive", "copy_in", "copy_out", "divide",
    "wait", "wait_for_stores", "wgmma", "wgmma_wait",
]  # fmt: skip

_plgpu: Any = plgpu


@runtime_checkable
class Ref(Protocol):
    """A view of global or shared memory inside a kernel: indexed with ``at``, read with ``[…]``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Dtype of the values."""
        ...

    @property
    def at(self) -> Any:
        """``ref.at[index]`` is a view of a part, without reading it."""
        ...

    def __getitem__(self, index: Any) -> Any:
        """Read into registers."""
        ...

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write from registers."""
        ...


Barrier: TypeAlias = Ref
"""One mbarrier in shared memory, or an array with one for each stage."""

Accumulator: TypeAlias = Ref
"""float32 registers of one warpgroup in which ``wgmma`` accumulates."""

Scalar: TypeAlias = int | Int[Array, ""]
"""A number known when the kernel is traced, or an int32 in a register."""

Numbers = TypeVar("Numbers", Scalar, Int[Array, "..."])

Index: TypeAlias = Scalar | pl.Slice | slice
"""One position along an axis, or ``pl.ds(start, size)``, which is a slice where both are known."""


def divide(number: Numbers, by: int) -> tuple[Numbers, Numbers]:
    """Quotient and remainder of nonnegative numbers, inside or outside a kernel.

    ``//`` and ``%`` round towards −∞, so that on traced numbers each lowers to a dozen instructions
    that test signs, in the producer's critical path. Truncating division needs no such tests.
    """
    value: Any = number
    quotient: Any
    remainder: Any
    # Numbers that are known at trace time stay Python numbers, which Pallas folds into addresses.
    if isinstance(value, int):
        quotient, remainder = divmod(value, by)
    else:
        divisor = lax.full_like(value, by)
        quotient, remainder = lax.div(value, divisor), lax.rem(value, divisor)
    return quotient, remainder


def copy_in(source: Ref, target: Ref, barrier: Barrier) -> None:
    """Start a TMA copy from global to shared memory; ``barrier`` counts the bytes that arrive."""
    _plgpu.copy_gmem_to_smem(source, target, barrier)


def copy_out(source: Ref, target: Ref) -> None:
    """Start a TMA copy from shared to global memory; :func:`wait_for_stores` waits for it."""
    _plgpu.copy_smem_to_gmem(source, target)


def wait_for_stores(pending: int, *, read_only: bool = False) -> None:
    """Wait until at most ``pending`` stores are in flight.

    With ``read_only``, wait only until shared memory has been read and can be overwritten.
    """
    _plgpu.wait_smem_to_gmem(pending, wait_read_only=read_only)


def wait(barrier: Barrier) -> None:
    """Block the warpgroup until the barrier completes its current phase."""
    _plgpu.barrier_wait(barrier)


def arrive(barrier: Barrier) -> None:
    """Signal the arrival of this warpgroup at a barrier."""
    _plgpu.barrier_arrive(barrier)


def wgmma(sums: Accumulator, a: Ref | Array, b: Ref) -> None:
    """Start ``sums += a @ b`` on the tensor cores; ``a`` is in shared memory or in registers."""
    _plgpu.wgmma(sums, a, b)


def wgmma_wait(pending: int) -> None:
    """Wait until at most ``pending`` matrix products of this warpgroup are in flight."""
    _plgpu.wgmma_wait(pending)
