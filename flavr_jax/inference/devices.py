# SPDX-License-Identifier: Apache-2.0
"""Several devices of one machine, which compute groups of intervals in turn.

Every device has a copy of the parameters and runs the same program on the same groups, so the
frames do not depend on the number of devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from jax import Array

from flavr_jax.models.flavr import Parameters

__all__ = ["Device", "Replicas", "choose"]

Device: TypeAlias = Any
"""A device of JAX, whose class has different names in the supported versions."""


def choose(wanted: str) -> list[Device]:
    """Return the devices that an option names.

    Args:
        wanted: ``all``, or how many.

    Raises:
        ValueError: the machine has fewer.
    """
    devices = jax.local_devices()
    count = len(devices) if wanted == "all" else int(wanted)
    if count > len(devices):
        raise ValueError(
            f"`devices` is {count}, but JAX sees {len(devices)} ({devices[0].platform}); use "
            f"{len(devices)} or all."
        )
    return devices[:count]


class Replicas:
    """Copies of a network's parameters on devices, taken in turn."""

    def __init__(self, params: Parameters, devices: Sequence[Device] = ()) -> None:
        """Copy the parameters to each device; without any, they stay where they are."""
        self.devices = tuple(devices)
        self._params = [jax.device_put(params, device) for device in devices] or [params]
        self._turn = 0

    def __len__(self) -> int:
        return len(self._params)

    @property
    def first(self) -> Parameters:
        """The parameters on the first device."""
        return self._params[0]

    def here(self, number: int | None = None) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which JAX puts new arrays on a device.

        Args:
            number: of the device; None for the one whose turn it is.
        """
        if not self.devices:
            return contextlib.nullcontext()
        return jax.default_device(self.devices[self._turn if number is None else number])

    def take(
        self, arrays: tuple[Array, ...], number: int | None = None
    ) -> tuple[Parameters, tuple[Array, ...]]:
        """Return parameters and arrays on a device.

        Args:
            arrays: on any devices.
            number: of the device; None for the one whose turn it is, and it is the next one's then.
        """
        turn = self._turn if number is None else number
        if number is None:
            self._turn = (turn + 1) % len(self)
        # Frames were uploaded to, or made on, the device of the group that read them first.
        if self.devices:
            device = self.devices[turn]
            # Most are there already, and a copy to where they are takes Python longer than this.
            arrays = tuple(
                one if one.devices() == {device} else jax.device_put(one, device) for one in arrays
            )
        return self._params[turn], arrays
