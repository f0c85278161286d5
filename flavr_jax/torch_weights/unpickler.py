# SPDX-License-Identifier: Apache-2.0
"""A pickle reader that builds only inert values, in time and memory bounded by the file's size.

A pickle is a program for a small stack machine. Python's own reader lets it call anything that it
can name, allocate any amount of memory, and hash or copy the same values again and again. This
reader supports only the instructions in PyTorch's files and the names in ``stand_ins.GLOBALS``. It
bounds its work by the bytes in the file: lengths are checked before data is read, the number of
copied items may not exceed that of executed instructions, and keys that are expensive to hash are
dropped.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flavr_jax.torch_weights.stand_ins import GLOBALS, Global, Placeholder, Storage, insert

__all__ = ["UnsafePickleError", "load"]

# A value takes up to about 150 bytes, even if its instruction is a single byte. FLAVR's checkpoints
# have about 10,000 instructions, and those with long training logs up to a million.
_MAX_INSTRUCTIONS = 5_000_000
_MAX_LINE = 1024
_MAX_INT_BYTES = 255
_SLACK = 1000  # items that even the smallest file may copy


class UnsafePickleError(ValueError):
    """A pickle uses a name that is neither a tensor nor a plain container."""


class _Machine:
    """Runs one pickle, read from the current position of ``file``."""

    def __init__(self, file: io.BufferedIOBase, storages: dict[str, Storage]) -> None:
        self.file = file
        start = file.tell()
        self.left = file.seek(0, io.SEEK_END) - start
        file.seek(start)
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.instructions = 0
        self.copied = 0

    def run(self) -> Any:
        """Execute instructions up to STOP and return the value on top of the stack."""
        while (code := self.take(1)) != pickle.STOP:
            self.instructions += 1
            if self.instructions > _MAX_INSTRUCTIONS:
                raise ValueError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"PyTorch never writes the instruction {code!r}")
            instruction(self)
        return self.pop()

    def take(self, count: int) -> bytes:
        """Read the next ``count`` bytes."""
        # Check first: a file object would allocate ``count`` bytes, however short the file is.
        if count > self.left:
            raise ValueError("it ends early")
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError("it ends early")
        return data

    def number(self, size: int) -> int:
        """Read the next ``size`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Read the text up to the next line break, and the line break."""
        data = self.file.readline(min(_MAX_LINE, self.left))
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise ValueError(f"a line is unfinished or longer than {_MAX_LINE} bytes")
        return data[:-1].decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self, kind: type | tuple[type, ...]) -> Any:
        """Return the value on top of the stack, which must be a ``kind``."""
        self.push(value := self.pop())
        if not isinstance(value, kind):
            raise ValueError("it fills something that is no container of the right kind")
        return value

    def items(self) -> list[Any]:
        """Remove and return the values pushed since the last mark."""
        if not self.marks:
            raise ValueError("it has no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def copies(self, count: int) -> None:
        """Count ``count`` copied items, and refuse to copy values again and again."""
        self.copied += count
        if self.copied > self.instructions + _SLACK:
            raise ValueError("it copies the same values over and over")

    def remember(self, index: int) -> None:
        self.push(value := self.pop())
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"it recalls a value {index} that it never stored")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        """Push the stand-in for ``module.name``."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is no text")
        # Protocol 2, which PyTorch writes, uses Python 2's name of the module.
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in GLOBALS:
            raise UnsafePickleError(full)
        self.push(GLOBALS[full])

    def call(self) -> None:
        """Replace a function and its arguments by the result."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no function")
        if function.call is None:
            raise ValueError("it calls a storage class")
        self.push(function.call(arguments, self.copies))

    def build(self) -> None:
        """Drop the state that the pickle sets on a dictionary or placeholder."""
        self.pop()
        self.top((dict, Placeholder))

    def storage(self) -> None:
        """Replace (kind, class, key, device, length, view) by the storage it describes."""
        record = self.pop()
        if not isinstance(record, tuple) or len(record) not in (5, 6):
            raise ValueError("a storage is described by something other than 5 or 6 values")
        kind, numbers, key, _, length, *view = record
        dtype = numbers.dtype if isinstance(numbers, Global) else None
        if kind != "storage" or dtype is None or not isinstance(key, str):
            raise ValueError("a storage has no class or no key")
        if any(part is not None for part in view):
            raise ValueError("a storage is a view of another one, as before PyTorch 0.4")
        if type(length) is not int or not 0 <= length < 2**63:
            raise ValueError("the length of a storage is no whole number")
        self.push(self.storages.setdefault(key, Storage(dtype, key, length)))

    def set_items(self, values: list[Any]) -> None:
        target = self.top((dict, Placeholder))
        if len(values) % 2:
            raise ValueError("a dictionary has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2]):
                insert(target, key, value)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def integer(self, size: int) -> None:
        if size > _MAX_INT_BYTES:
            raise ValueError(f"an integer has {size} bytes; up to {_MAX_INT_BYTES} are read")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self) -> None:
        text = self.line()
        self.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text))

    def text(self, size: int) -> None:
        # A lone surrogate is not an error, as in pickle itself.
        self.push(self.take(size).decode("utf-8", "surrogatepass"))

    def stacked_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def discard_items(self) -> None:
        self.items()
        self.top(Placeholder)


def _pushes(value: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value())


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.POP: lambda m: m.pop(),
    pickle.POP_MARK: lambda m: m.items(),
    pickle.NONE: _pushes(lambda: None),
    pickle.NEWTRUE: _pushes(lambda: True),
    pickle.NEWFALSE: _pushes(lambda: False),
    pickle.INT: lambda m: m.decimal(),
    pickle.BININT: lambda m: m.integer(4),
    pickle.BININT1: lambda m: m.push(m.number(1)),
    pickle.BININT2: lambda m: m.push(m.number(2)),
    pickle.LONG1: lambda m: m.integer(m.number(1)),
    pickle.LONG4: lambda m: m.integer(m.number(4)),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # Text from Python 2, with which the first official checkpoints were written.
    pickle.SHORT_BINSTRING: lambda m: m.text(m.number(1)),
    pickle.BINSTRING: lambda m: m.text(m.number(4)),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.number(1)),
    pickle.BINUNICODE: lambda m: m.text(m.number(4)),
    pickle.BINUNICODE8: lambda m: m.text(m.number(8)),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number(1))),
    pickle.BINBYTES: lambda m: m.push(m.take(m.number(4))),
    pickle.BINBYTES8: lambda m: m.push(m.take(m.number(8))),
    pickle.BYTEARRAY8: lambda m: m.push(m.take(m.number(8))),
    pickle.EMPTY_TUPLE: _pushes(tuple),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.items())),
    pickle.EMPTY_LIST: _pushes(list),
    pickle.APPEND: lambda m: (value := m.pop(), m.top(list).append(value)),
    pickle.APPENDS: lambda m: (values := m.items(), m.top(list).extend(values)),
    pickle.EMPTY_DICT: _pushes(dict),
    pickle.SETITEM: lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.items()),
    # Sets are never read, and hashing their items may take unlimited time.
    pickle.EMPTY_SET: _pushes(Placeholder),
    pickle.ADDITEMS: lambda m: m.discard_items(),
    pickle.FROZENSET: lambda m: (m.items(), m.push(Placeholder())),
    pickle.BINGET: lambda m: m.recall(m.number(1)),
    pickle.LONG_BINGET: lambda m: m.recall(m.number(4)),
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.stacked_name(),
    pickle.REDUCE: lambda m: m.call(),
    pickle.NEWOBJ: lambda m: m.call(),
    pickle.BUILD: lambda m: m.build(),
    pickle.BINPERSID: lambda m: m.storage(),
}


def load(file: io.BufferedIOBase, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    """Build the pickled value that starts at the current position of ``file``.

    Args:
        file: seekable; its position is after the value when this returns.
        path: name of the file in messages.
        storages: receives the storages of the value's tensors, by key.

    Raises:
        UnsafePickleError: the pickle uses a forbidden name, which the message tells; nothing was
            run.
        ValueError: the pickle is damaged, or would take more time or memory than its size allows.
    """
    try:
        return _Machine(file, {} if storages is None else storages).run()
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} asks for `{error}`; only tensors and plain containers are read, so nothing in "
            "it was run. If you trust the file, load it with PyTorch and save its `state_dict` "
            "alone."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or no checkpoint: its pickle cannot be read ({error})."
        ) from error
