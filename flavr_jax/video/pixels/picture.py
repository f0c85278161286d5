# SPDX-License-Identifier: Apache-2.0
"""Pictures whose pixels are converted or fetched only when they are asked for.

Most frames of a clip never need RGB on the host: they go to the device of the network as planes,
and come back from it as planes. A ``Picture`` therefore knows where its values are, and turns them
into what its user asks for.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax import Array
from jaxtyping import UInt8, UInt16

from flavr_jax.typing import Frame
from flavr_jax.video.pixels.conversion import Conversion, Samples, on_host

__all__ = ["Picture", "Planar", "Resident", "resident", "sampled", "sampled_planes"]

Sampled: TypeAlias = (
    UInt8[np.ndarray, "time _rows _columns channel"]
    | UInt16[np.ndarray, "time _rows _columns channel"]
)


class Resident:
    """A frame on the device of a network."""

    def __init__(
        self,
        pixels: UInt8[Array, "height width channel"] | UInt16[Array, "height width channel"],
        opaque: bool = True,
    ) -> None:
        self._pixels, self._opaque = pixels, opaque

    @property
    def pixels(
        self,
    ) -> UInt8[Array, "height width channel"] | UInt16[Array, "height width channel"]:
        """RGB or RGBA."""
        return self._pixels

    @property
    def opaque(self) -> bool:
        """True if there is no alpha, or if it is opaque everywhere."""
        return self._opaque

    def on(self, device: int | None) -> Resident:
        """Return the frame on a device of the network's, given by its number, or on any other."""
        return self


class Picture(abc.ABC):
    """A picture that is converted, or fetched from a device, when it is asked for."""

    @property
    @abc.abstractmethod
    def pixels(self) -> Frame:
        """RGB or RGBA on the host."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of ``pixels``."""

    @abc.abstractmethod
    def upload(self) -> Resident:
        """Return the picture on JAX's default device."""

    def sampled(self, step: int) -> Frame:
        """Return every ``step``-th pixel of every ``step``-th row, on the host."""
        return self.pixels[::step, ::step]


class Planar(Picture):
    """A picture held as the samples of its planes, on the host.

    Attributes:
        conversion: between the planes and RGB.
        size: height and width.
    """

    def __init__(
        self,
        samples: Samples | Callable[[], list[np.ndarray]],
        conversion: Conversion,
        size: tuple[int, int],
    ) -> None:
        """Hold a picture.

        Args:
            samples: of the planes, or a function that returns each plane when it is needed.
            conversion: between the planes and RGB.
            size: height and width.
        """
        self._given, self.conversion, self.size = samples, conversion, size

    @functools.cached_property
    def planes(self) -> list[np.ndarray]:
        """A view of each plane, ``[height, width]``."""
        if isinstance(self._given, np.ndarray):
            return self.conversion.split(self._given, self.size)
        return self._given()

    @functools.cached_property
    def samples(self) -> Samples:
        """The samples of all planes."""
        if isinstance(self._given, np.ndarray):
            return self._given
        samples = np.empty(sum(plane.size for plane in self.planes), self.planes[0].dtype)
        for part, plane in zip(self.conversion.split(samples, self.size), self.planes, strict=True):
            part[:] = plane
        return samples

    @property
    def pixels(self) -> Frame:
        """RGB or RGBA on the host."""
        return self._pixels

    @functools.cached_property
    def _pixels(self) -> Frame:
        with on_host():
            return np.asarray(self.conversion.decode(self.samples, self.size))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of ``pixels``."""
        return (*self.size, 3 + self.conversion.form.layout.alpha)

    def upload(self) -> Resident:
        """Return the picture on JAX's default device; its planes are converted there."""
        opaque = True
        if self.conversion.form.layout.alpha:
            # On the host, which has the planes: a device's answer would have to be waited for.
            opaque = bool(self.planes[-1].min() >= self.conversion.numbers.top)
        return _Sent(jax.device_put(self.samples), self.conversion, self.size, opaque)

    def sampled(self, step: int) -> Frame:
        """Return every ``step``-th pixel of every ``step``-th row, with the nearest chroma."""
        return self.conversion.decode_few(self._coarse(step))

    def _coarse(self, step: int) -> list[np.ndarray]:
        """Return the samples of each plane that are nearest to the pixels of ``sampled``."""
        coarse = []
        for plane in self.planes:
            rows, columns = map(functools.partial(_nearest, step), self.size, plane.shape)
            # Whole rows first: NumPy picks rows and columns at once, one by one, more slowly.
            coarse.append(plane[rows][:, columns])
        return coarse


class _Sent(Resident):
    """A picture whose planes are on their way to a device.

    They are converted when the pixels are first needed: the start of a program waits until the
    copies of its arguments have begun, so that several copies should begin before the first waits.
    """

    def __init__(
        self, samples: Array, conversion: Conversion, size: tuple[int, int], opaque: bool
    ) -> None:
        self._samples: Array | None = samples
        self._conversion, self._size, self._opaque = conversion, size, opaque

    @property
    def pixels(
        self,
    ) -> UInt8[Array, "height width channel"] | UInt16[Array, "height width channel"]:
        """RGB or RGBA."""
        if self._samples is not None:
            self._pixels = self._conversion.decode(self._samples, self._size)
            self._samples = None
        return self._pixels


def sampled(pictures: Sequence[Frame | Picture], step: int) -> Sampled:
    """Return every ``step``-th pixel of every ``step``-th row of pictures of one size and type.

    Planes are converted together: every operation of NumPy gives Python's lock away, and has to
    wait for it if other threads are busy.
    """
    planar = _coarse_planes(pictures, step)
    if planar is not None:
        return planar[0].decode_few(planar[1])
    return np.stack(
        [
            one[::step, ::step] if isinstance(one, np.ndarray) else one.sampled(step)
            for one in pictures
        ]
    )


def sampled_planes(
    pictures: Sequence[Frame | Picture], step: int
) -> tuple[Callable[[list[np.ndarray]], list[np.ndarray]], list[np.ndarray]] | None:
    """Return the samples of each plane that belong to the pixels of ``sampled``.

    Returns:
        :meth:`Conversion.decode_values`, and arrays ``[picture, row, column]``, one for each plane;
        None if the pictures are not held as planes, all with one conversion.
    """
    planar = _coarse_planes(pictures, step)
    return None if planar is None else (planar[0].decode_values, planar[1])


def _coarse_planes(
    pictures: Sequence[Frame | Picture], step: int
) -> tuple[Conversion, list[np.ndarray]] | None:
    """Return the conversion of pictures, and the arrays of :func:`sampled_planes`."""
    first = pictures[0]
    if not isinstance(first, Planar):
        return None
    planar = [one for one in pictures if isinstance(one, Planar)]
    if any((one.conversion, one.size) != (first.conversion, first.size) for one in planar):
        return None
    planes = zip(*(one._coarse(step) for one in planar), strict=True)
    return first.conversion, [np.stack(each) for each in planes]


def _nearest(step: int, length: int, samples: int) -> slice | np.ndarray:
    """Return which of a plane's rows or columns are nearest to every ``step``-th of a picture."""
    parts, rest = divmod(length, samples)
    if rest == 0 and step % parts == 0:
        return slice(None, None, step // parts)
    return np.arange(0, length, step) * samples // length


def resident(picture: Frame | Picture) -> Resident:
    """Return a picture, or pixels on the host, on JAX's default device."""
    if isinstance(picture, Picture):
        return picture.upload()
    opaque = picture.shape[-1] < 4 or picture[..., 3].min() == np.iinfo(picture.dtype).max
    return Resident(jax.device_put(picture), bool(opaque))
