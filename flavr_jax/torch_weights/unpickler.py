# SPDX-License-Identifier: Apache-2.0
"""A pickle reader that can build inert values and nothing else.

A pickle is a program: it may call whatever it can name. Here the names to be had are a short table
of containers and records without behaviour, so the worst a hostile file can do is to be refused.
Tensors come out as descriptions; their bytes lie elsewhere in the file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Storage", "Tensor", "UnsafePickleError", "load"]


class UnsafePickleError(ValueError):
    """A pickle asks for something that is neither a tensor nor a plain container."""


class Storage(NamedTuple):
    """A run of ``length`` numbers stored under ``key``."""

    dtype: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A strided view of a storage, offset and strides counted in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Function(NamedTuple):
    """A function that a pickle may call and cannot alter."""

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Dict(dict):
    """Stands for every kind of dictionary; attributes a pickle would set on it are dropped."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        if arguments and isinstance(arguments[0], list | dict):
            super().__init__(arguments[0])

    def __setstate__(self, state: Any) -> None:
        """Drop the state: ``state_dict()`` hangs version numbers on its OrderedDict."""


class _Placeholder:
    """Stands for values that training logs leave behind; it keeps and does nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> _Placeholder:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """What ``torch._utils._rebuild_tensor_v2`` would make; autograd's arguments are dropped."""
    numbers = (offset, *size, *stride)
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    if not isinstance(storage, Storage) or not whole or len(size) != len(stride):
        raise ValueError("a tensor is described by something other than whole numbers")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """What ``torch._utils._rebuild_parameter`` would make: the tensor itself."""
    return tensor


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
# Pickle's BUILD instruction sets attributes on whatever it is given. Nothing below can be altered
# by it: built-in types, strings and tuples refuse, our classes drop what they are given.
_GLOBALS: dict[str, Any] = {
    "builtins.dict": _Dict,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "collections.Counter": _Dict,
    "collections.OrderedDict": _Dict,
    "collections.defaultdict": _Dict,
    "torch.Size": tuple,
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    **_STORAGES,
    # What mmengine and research scripts leave beside the weights.
    "_codecs.encode": _Placeholder,
    "argparse.Namespace": _Placeholder,
    "mmengine.logging.history_buffer.HistoryBuffer": _Placeholder,
    "numpy._core.multiarray._reconstruct": _Placeholder,
    "numpy._core.multiarray.scalar": _Placeholder,
    "numpy.core.multiarray._reconstruct": _Placeholder,
    "numpy.core.multiarray.scalar": _Placeholder,
    "numpy.dtype": _Placeholder,
    "numpy.ndarray": _Placeholder,
    "torch.device": _Placeholder,
}


class _Unpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and tensor descriptions; refuses any other name."""

    def __init__(self, file: io.BufferedIOBase, storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """The inert stand-in for ``module.name``, if it has one."""
        # Python 2's module for built-ins is what protocol 2, PyTorch's, has in the file.
        full_name = f"{'builtins' if module == '__builtin__' else module}.{name}"
        try:
            return _GLOBALS[full_name]
        except KeyError:
            raise UnsafePickleError(full_name) from None

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that ``pid`` describes: kind, dtype, key, device, length, and once a view."""
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or dtype not in _STORAGES.values() or not isinstance(key, str):
            raise ValueError(f"{kind!r} {key!r} is not a storage")
        if any(part is not None for part in view):
            raise ValueError("a storage is a view of another one, as before PyTorch 0.4")
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"a storage has {length!r} elements")
        return self.storages.setdefault(key, Storage(dtype, key, length))


def load(file: io.BufferedIOBase, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    """Build the pickled value at which ``file`` stands.

    Args:
        file: stands behind the value afterwards.
        path: what the messages call the file.
        storages: gets the storages that the value's tensors lie in, by key.

    Raises:
        UnsafePickleError: naming what was asked for; nothing was run.
        ValueError: if this is no sound pickle.
    """
    try:
        return _Unpickler(file, {} if storages is None else storages).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} asks for `{error}`; only tensors and plain containers are read, so nothing in "
            "it was run. If you trust the file, load it with PyTorch and save its `state_dict` "
            "alone."
        ) from None
    except Exception as error:  # the pickle module documents that damaged data may raise anything
        raise ValueError(
            f"{path} is damaged or no checkpoint: its pickle cannot be read ({error})."
        ) from error
