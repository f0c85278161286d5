# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is a program in disguise; whatever it tries, it is refused and nothing is run."""

import builtins
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from flavr_jax import torch_weights
from flavr_jax.torch_weights import stand_ins, unpickler

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Call:
    """Pickles as a call of ``function``, which unpickling would make."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def write_zip(path: Path, pickled: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"archive/data/{name}", data)


def write_legacy(path: Path, pickled: bytes, **records: bytes) -> None:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, system)]
    parts += [pickled, pickle.dumps(list(records), protocol=2)]
    parts += [struct.pack("<q", len(data) // 4) + data for data in records.values()]
    path.write_bytes(b"".join(parts))


def write_bare(path: Path, pickled: bytes) -> None:
    path.write_bytes(pickled)


def storage(key: str, count: int) -> bytes:
    """The opcodes for a float32 storage."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + b"X"
        + struct.pack("<i", len(key))
        + key.encode()
        + b"X\x03\x00\x00\x00cpuJ"
        + struct.pack("<i", count)
        + b"tQ"
    )


def checkpoint(size: str, stride: str, count: int = 4) -> bytes:
    """A pickled ``{"state_dict": {"a": tensor}}``; size and stride as protocol 0 spells tuples."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage("0", count)
        + f"I0\n({size}t({stride}tI00\n}}tR".encode()
    )
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00a" + tensor + b"ss."


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_bare])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "code"),
    [
        (os.system, "touch {}"),
        (builtins.eval, "open({!r}, 'w')"),
        (builtins.exec, "open({!r}, 'w')"),
        (os.mkdir, "{}"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_by_name_and_not_run(
    tmp_path, write, protocol, function, code
):
    witness = tmp_path / "ran"
    call = Call(function, code.format(str(witness)))
    path = tmp_path / "weights.pth"
    write(path, pickle.dumps({"state_dict": {}, "optimizer": call}, protocol=protocol))

    name = f"{function.__module__}.{function.__name__}"
    with pytest.raises(torch_weights.UnsafePickleError, match=f"`{name}`"):
        torch_weights.read(path)

    assert not witness.exists()


@pytest.mark.parametrize(
    "name", ["torch.storage _load_from_bytes", "__builtin__ getattr", "torch.nn.modules Linear"]
)
def test_names_outside_the_list_are_refused_even_if_pytorch_writes_them(tmp_path, name):
    path = tmp_path / "weights.pth"
    module, function = name.split()
    write_zip(path, f"c{module}\n{function}\n.".encode())

    with pytest.raises(torch_weights.UnsafePickleError, match=function):
        torch_weights.read(path)


@pytest.mark.parametrize("name", sorted(stand_ins.GLOBALS))
@pytest.mark.parametrize("state", [b"}X\x01\x00\x00\x00aI1\ns", b"N}X\x01\x00\x00\x00aI1\ns\x86"])
def test_what_a_pickle_may_name_it_cannot_alter(name, state):
    module, _, attribute = name.rpartition(".")
    program = f"c{module}\n{attribute}\n".encode() + state + b"b."

    with pytest.raises(ValueError, match="cannot be read"):
        unpickler.load(io.BytesIO(program), Path("weights.pth"))

    assert not hasattr(stand_ins.GLOBALS[name], "a")


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_strides_and_offsets_are_honoured(tmp_path, write):
    path = tmp_path / "weights.pth"
    write(path, checkpoint("I2\nI2\n", "I1\nI2\n"), **{"0": struct.pack("<4f", 1, 2, 3, 4)})

    assert torch_weights.read(path).tensors["a"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ("I5\n", "I1\n"),  # beyond the end
        ("I2\nI2\n", "I3\nI1\n"),
        ("I1000000000\nI1000000000\n", "I0\nI0\n"),  # a memory bomb of 16 bytes
        ("I-1\n", "I1\n"),
        ("I2\n", "I-1\n"),
        ("I2\nI2\n", "I1\n"),
        ("F2.0\n", "I1\n"),
    ],
)
def test_a_tensor_that_lies_about_its_storage_is_a_plain_error(tmp_path, write, size, stride):
    path = tmp_path / "weights.pth"
    write(path, checkpoint(size, stride), **{"0": bytes(16)})

    with pytest.raises(ValueError, match="damaged"):
        torch_weights.read(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("records", [{}, {"0": bytes(8)}, {"1": bytes(16)}])
def test_a_storage_that_is_missing_or_short_is_a_plain_error(tmp_path, write, records):
    path = tmp_path / "weights.pth"
    write(path, checkpoint("I4\n", "I1\n"), **records)

    with pytest.raises(ValueError, match=r"damaged|truncated"):
        torch_weights.read(path)


def test_a_compressed_archive_is_refused_before_it_can_swell(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", checkpoint("I4\n", "I1\n"))

    with pytest.raises(ValueError, match="compressed"):
        torch_weights.read(path)


def test_numbers_in_a_big_endian_file_are_not_misread(tmp_path):
    path = tmp_path / "weights.pth"
    write_zip(path, checkpoint("I4\n", "I1\n"), **{"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")

    with pytest.raises(ValueError, match="big-endian"):
        torch_weights.read(path)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "no tensors .* its keys are epoch"),
        ({"state_dict": {"a": 1}}, "no tensors"),
    ],
)
def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path, tree, message):
    path = tmp_path / "weights.pth"
    write_zip(path, pickle.dumps(tree, protocol=2))

    with pytest.raises(ValueError, match=message):
        torch_weights.read(path)
