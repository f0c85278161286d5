# SPDX-License-Identifier: Apache-2.0
"""Harmless stand-ins for the Python objects that a PyTorch checkpoint names.

``GLOBALS`` is the complete list of names that a pickle may use. Each of them builds a plain
container, a description of a tensor, or a placeholder; none has access to the interpreter, the disk
or the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["GLOBALS", "MAX_RANK", "Global", "Placeholder", "Storage", "Tensor", "insert"]

MAX_RANK = 64
"""Largest number of axes of a tensor, the limit of NumPy and PyTorch."""


class Storage(NamedTuple):
    """A block of ``length`` numbers, stored under ``key``."""

    dtype: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Placeholder:
    """Stand-in for values that are not needed: logs, random states, sets."""

    __slots__ = ()


class Global(NamedTuple):
    """A name that a pickle may use.

    Attributes:
        call: builds a value from the call's arguments and a function to which it reports the number
            of items that it copies; None if the name cannot be called.
        dtype: dtype of a storage class.
    """

    call: Callable[[tuple[Any, ...], Callable[[int], None]], Any] | None = None
    dtype: str | None = None


def insert(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set ``target[key]``, or drop the entry if its key is neither text nor a plain number.

    Only entries with text keys are ever read. Hashing other keys may take unlimited time: nested
    tuples can take exponential time, and long integers can be chosen so that they collide.
    """
    if isinstance(key, str | float) or (isinstance(key, int) and abs(key) < 2**63):
        target[key] = value


def _dict(arguments: tuple[Any, ...], copies: Callable[[int], None]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    source = arguments[0] if arguments else None
    if isinstance(source, Mapping):
        copies(len(source))
        made.update(source)
    elif isinstance(source, list):
        copies(len(source))
        for pair in source:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError("a dictionary is made of something other than pairs")
            insert(made, *pair)
    return made


def _list(arguments: tuple[Any, ...], copies: Callable[[int], None]) -> list[Any]:
    return [*_items(arguments, copies)]


def _tuple(arguments: tuple[Any, ...], copies: Callable[[int], None]) -> tuple[Any, ...]:
    return (*_items(arguments, copies),)


def _items(arguments: tuple[Any, ...], copies: Callable[[int], None]) -> list[Any] | tuple:
    source = arguments[0] if arguments else ()
    if not isinstance(source, list | tuple):
        raise ValueError("a list or tuple is made of something else")
    copies(len(source))
    return source


def _placeholder(_arguments: tuple[Any, ...], _copies: Callable[[int], None]) -> Placeholder:
    return Placeholder()


def _rebuild_tensor(arguments: tuple[Any, ...], _copies: Callable[[int], None]) -> Tensor:
    """Do the work of ``torch._utils._rebuild_tensor_v2``, without its autograd arguments."""
    if len(arguments) < 4:
        raise ValueError("a tensor is described by fewer than 4 values")
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage) or not isinstance(size, tuple | list):
        raise ValueError("a tensor has no storage or no size")
    if not isinstance(stride, tuple | list) or not len(size) == len(stride) <= MAX_RANK:
        raise ValueError(f"a tensor has not one stride for each axis, or above {MAX_RANK} axes")
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor is described by something other than whole numbers")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(arguments: tuple[Any, ...], _copies: Callable[[int], None]) -> Any:
    """Do the work of ``torch._utils._rebuild_parameter``: return the tensor itself."""
    if not arguments:
        raise ValueError("a parameter has no tensor")
    return arguments[0]


_STORAGES = {
    "torch.BFloat16Storage": "bfloat16",
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.ShortStorage": "int16",
    "torch.storage.UntypedStorage": "uint8",
}
_PLACEHOLDERS = (
    "builtins.set",
    # Objects that mmengine and research scripts store with the weights.
    "_codecs.encode",
    "argparse.Namespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.device",
)
GLOBALS: dict[str, Global] = {
    "builtins.dict": Global(_dict),
    "builtins.list": Global(_list),
    "builtins.tuple": Global(_tuple),
    "collections.Counter": Global(_dict),
    "collections.OrderedDict": Global(_dict),
    "collections.defaultdict": Global(_dict),
    "torch.Size": Global(_tuple),
    "torch._utils._rebuild_parameter": Global(_rebuild_parameter),
    "torch._utils._rebuild_tensor_v2": Global(_rebuild_tensor),
    **{name: Global(dtype=dtype) for name, dtype in _STORAGES.items()},
    **dict.fromkeys(_PLACEHOLDERS, Global(_placeholder)),
}
