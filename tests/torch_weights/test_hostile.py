# SPDX-License-Identifier: Apache-2.0
"""A small file takes little memory and time, whatever it claims to hold."""

import contextlib
import json
import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flavr_jax import torch_weights
from flavr_jax.torch_weights import report

MEMORY = 100e6  # bytes; all but one of the files below are smaller than 1 MB
SECONDS = 20.0


@contextlib.contextmanager
def bounded():
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
        assert time.monotonic() - start < SECONDS
    finally:
        tracemalloc.stop()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(length: int, key: str = "0", dtype: str = "Float") -> bytes:
    described = text("storage") + f"ctorch\n{dtype}Storage\n".encode() + text(key) + text("cpu")
    return b"(" + described + integer(length) + b"tQ"


def tensor(size, stride, offset: int = 0, **of_storage) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(**of_storage)
        + integer(offset) + numbers(*size) + numbers(*stride) + b"\x89}tR"
    )  # fmt: skip


def checkpoint(*tensors: bytes) -> bytes:
    return b"\x80\x02}" + b"".join(text(f"t{n}") + t + b"s" for n, t in enumerate(tensors)) + b"."


def doubled(levels: int = 100) -> bytes:
    """A tuple of two of the same tuple, of two of the same … : 2**levels at the bottom."""
    return b")q\x00" + levels * b"0h\x00h\x00\x86q\x00"


def write_zip(path: Path, pickled: bytes, records: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (records or {}).items():
            archive.writestr(f"archive/data/{name}", data)
    return path


def write_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


LIST = b"cbuiltins\nlist\n"
PICKLES = {
    "a key that is costly to hash": b"\x80\x02}" + doubled() + b"Ns.",
    "a storage's name that is costly to compare": b"\x80\x02(" + doubled() + b"h\x00h\x00h\x00tQ.",
    "a top value that is costly to print": b"\x80\x02" + doubled() + b".",
    "a key that is costly to print": b"\x80\x02}" + text("x") + doubled(24) + b"s" + doubled(24)
    + b"Ns.",
    "a set that is costly to hash": b"\x80\x04\x8f(" + doubled() + b"\x90.",
    "lists copied over and over": b"\x80\x02}" + text("a") + b"](" + 10_000 * b"N" + b"eq\x01"
    + b"(" + 1000 * (LIST + b"h\x01\x85R") + b"ts.",
    "dictionaries copied over and over": b"\x80\x02}(" + b"".join(
        integer(n) + b"N" for n in range(5000)
    ) + b"uq\x01(" + 1000 * b"cbuiltins\ndict\nh\x01\x85R" + b"t.",
    "values within values": b"\x80\x02" + 5000 * b"]" + 4999 * b"a" + b".",
    "dictionaries within dictionaries": b"\x80\x02}" + 1000 * (text("a") + b"}") + 1000 * b"s"
    + b".",
    "a place of the memo far out": b"\x80\x02Nr\xff\xff\xff\xff.",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "a byte array longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"abc.",
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "an integer of a million bytes": b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\xff" * 10**6
    + b".",
    "an integer of a million digits": b"\x80\x02I" + b"9" * 10**6 + b"\n.",
    "a name without an end": b"\x80\x02c" + b"a" * 10**6,
    "an integer that Python cannot print": b"\x80\x02}" + text("epoch") + b"\x8b"
    + struct.pack("<I", 3000) + b"\x7f" * 3000 + b"s.",
    "a storage of 2**63 numbers": checkpoint(tensor([1], [1], length=1 << 63)),
    "a storage of 2**62 numbers": checkpoint(tensor([1], [1], length=1 << 62)),
    "a storage that is repeated": checkpoint(tensor([1 << 31], [0], length=1 << 31)),
    "an empty tensor with a huge axis": checkpoint(tensor([0, 1 << 70], [1, 1], length=4)),
    "an empty tensor with large axes": checkpoint(tensor([0] + [1 << 20] * 5, [1] * 6, length=4)),
    "a tensor of 1000 axes": checkpoint(tensor([1] * 1000, [1] * 1000, length=4)),
    "a huge offset": checkpoint(tensor([1], [1], offset=1 << 70, length=4)),
    "an instruction that PyTorch never writes": b"\x80\x02(cos\nsystem\no.",
    "an empty stack": b"\x80\x02s.",
    "a mark that is taken for a value": b"\x80\x02N(\x85.",
    "a value that was never stored": b"\x80\x02h\x07.",
    "a call of a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
}  # fmt: skip


@pytest.mark.parametrize("wrap", ["zip", "bare"])
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_is_refused_within_bounds(tmp_path, name, wrap):
    path = tmp_path / "weights.pth"
    if wrap == "zip":
        write_zip(path, PICKLES[name], {"0": bytes(16)})
    else:
        path.write_bytes(PICKLES[name])

    with bounded(), pytest.raises(ValueError, match=r"weights\.pth") as error:
        torch_weights.read(path)

    assert len(str(error.value)) < 2000


def test_the_stride_of_a_single_element_may_be_any_number(tmp_path):
    pickled = checkpoint(tensor([1], [1 << 70], length=4))
    path = write_zip(tmp_path / "weights.pth", pickled, {"0": struct.pack("<4f", 7, 0, 0, 0)})

    assert torch_weights.read(path).tensors["t0"].tolist() == [7.0]


def test_tied_weights_are_read_once_and_shared(tmp_path):
    view = tensor([250_000], [1], length=250_000)
    path = write_zip(tmp_path / "a.pth", checkpoint(*300 * [view]), {"0": bytes(1_000_000)})

    with bounded():
        tensors = torch_weights.read(path).tensors

    assert len(tensors) == 300
    assert all(one is tensors["t0"] for one in tensors.values())
    assert not tensors["t0"].flags.writeable


def test_views_that_overlap_may_not_multiply_the_file(tmp_path):
    views = [tensor([250_000 - n], [1], offset=n, length=250_000) for n in range(300)]
    path = write_zip(tmp_path / "a.pth", checkpoint(*views), {"0": bytes(1_000_000)})

    with bounded(), pytest.raises(ValueError, match="overlap"):
        torch_weights.read(path)


def test_a_view_with_wide_strides_reads_only_its_elements(tmp_path):
    views = [tensor([2], [249_999 - n], length=250_000) for n in range(500)]
    numbers = np.arange(250_000, dtype="<f4")
    path = write_zip(tmp_path / "a.pth", checkpoint(*views), {"0": numbers.tobytes()})

    with bounded():
        tensors = torch_weights.read(path).tensors

    assert tensors["t499"].tolist() == [0, 249_500]


def test_plain_values_that_fan_out_are_ignored(tmp_path):
    wide = b"}" + b"".join(text(f"{n}") + b"Ns" for n in range(2000)) + b"q\x01"
    wider = b"}" + b"".join(text(f"{n}") + b"h\x01s" for n in range(2000)) + b"q\x02"
    widest = b"}" + b"".join(text(f"{n}") + b"h\x02s" for n in range(2000))
    weights = text("w") + tensor([4], [1], length=4) + b"s"
    pickled = b"\x80\x02" + wide + b"0" + wider + b"0}" + weights + text("x") + widest + b"s."
    path = write_zip(tmp_path / "a.pth", pickled, {"0": bytes(16)})

    with bounded():
        file = torch_weights.read(path)

    assert list(file.tensors) == ["w"]
    assert file.extra == {}
    assert file.ignored == ("x",)


def test_zip_records_that_lie_on_one_another_are_refused(tmp_path):
    names = [f"{n}" for n in range(200)]
    views = [tensor([25_000], [1], key=name, length=25_000) for name in names]
    path = write_zip(tmp_path / "a.pth", checkpoint(*views), {"0": bytes(100_000)})
    with zipfile.ZipFile(path, "a") as archive:
        record = archive.getinfo("archive/data/0")
        for name in names[1:]:
            copy = zipfile.ZipInfo(f"archive/data/{name}")
            copy.header_offset, copy.CRC = record.header_offset, record.CRC
            copy.file_size = copy.compress_size = record.file_size
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive.comment = b"marks the directory as changed"

    with bounded(), pytest.raises(ValueError, match="damaged"):
        torch_weights.read(path)


def test_a_flipped_bit_in_a_zip_archive_is_found(torch_files, tmp_path):
    data = bytearray((torch_files / "official_2x_half.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(data)

    with pytest.raises(ValueError, match="checksum"):
        torch_weights.read(tmp_path / "a.pth")


def entry(**changes):
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"__metadata__":' + b'{"a":' * 50_000,
        {"__metadata__": {"a": {"b": "c"}}, "w": entry()},
        {"__metadata__": [], "w": entry()},
        {"w": []},
        {"w": 3},
        [],
        {"w": entry(shape=[-1, -1])},
        {"w": entry(shape=[10**400, 0], data_offsets=[0, 0])},
        {"w": entry(shape=[2**30] * 20 + [0], data_offsets=[0, 0])},
        {"w": entry(shape=[1] * 65)},
        {"w": entry(shape=[1.0])},
        {"w": entry(shape=[True])},
        {"w": entry(shape="1")},
        {"w": entry(data_offsets=[-4, 0])},
        {"w": entry(data_offsets=[4, 8])},
        {"w": entry(data_offsets=[0, 4, 8])},
        {"w": entry(data_offsets=[10**400, 10**400 + 4])},
        {"w": entry(dtype="F4")},
        {"w": entry(dtype=["F32"])},
        {f"w{n}": entry() for n in range(1000)},
        b'{"w": ' + b"9" * 10_000 + b"}",
        b'{"\xff": 1}',
        b"{" + b" " * 17_000_000,
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_hostile_safetensors_file_is_refused_within_bounds(tmp_path, header):
    path = write_safetensors(tmp_path / "a.safetensors", header, b"\0\0\0\0")

    with bounded(), pytest.raises(ValueError, match=r"a\.safetensors"):
        torch_weights.read(path)


def test_names_are_shown_without_terminal_escapes_and_shortened(tmp_path):
    header = {"\x1b]0;pwned\x07\x1b[2J\n\u202ehidden": entry(), "x" * 10_000: entry()}
    header["x" * 10_000]["data_offsets"] = [4, 8]
    path = write_safetensors(
        tmp_path / "a.safetensors", {"__metadata__": {"\x1b[2J": "\x1b[31m"}, **header}, bytes(8)
    )

    file = torch_weights.read(path)
    table = report.tensor_table(file.tensors)
    shown = [*report.source_lines(file), *table.columns[0]._cells]

    assert all(line.isprintable() for line in shown)
    assert max(map(len, map(str, shown))) < 1000
    assert "\\x1b[2J: \\x1b[31m" in shown
    assert shown[-2] == "\\x1b]0;pwned\\x07\\x1b[2J \\u202ehidden"


def test_a_table_of_many_tensors_is_cut(tmp_path):
    tensors = {f"t{n}": np.zeros(0, np.float32) for n in range(100_000)}

    with bounded():
        table = report.tensor_table(tensors)

    assert table.row_count == 2001
    assert list(table.columns[0]._cells)[-1] == "… and 98000 more"


def test_the_spread_of_values_takes_no_multiple_of_a_tensors_size():
    values = np.full(40_000_000, 3, np.uint8)
    values[::2] = 1

    with bounded():
        table = report.tensor_table({"t": values})

    assert [list(column._cells) for column in table.columns[3:]] == [["1"], ["3"], ["2"], ["1"]]


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="pipe or device"):
            torch_weights.read(path)


@pytest.mark.parametrize(
    "name",
    ["a__0x99999999999999999999.bin", f"a__{'x'.join(100 * '1')}.bin", "a__0x4294967296.bin"],
)
def test_a_raw_file_with_an_impossible_shape_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(4) if "x1x" in name else b"")

    with pytest.raises(ValueError, match="a shape that no tensor has"):
        torch_weights.read(tmp_path)


def test_raw_files_may_be_no_pipes_and_have_any_name(tmp_path):
    (tmp_path / os.fsdecode(b"\xff__1.bin")).write_bytes(bytes(4))
    assert torch_weights.read(tmp_path).tensors[os.fsdecode(b"\xff")].tolist() == [0.0]

    os.mkfifo(tmp_path / "b__1.bin")
    with pytest.raises(ValueError, match=r"b__1\.bin is no regular file"):
        torch_weights.read(tmp_path)
