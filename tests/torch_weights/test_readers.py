# SPDX-License-Identifier: Apache-2.0
"""Every format is read exactly, and what is no checkpoint is refused in plain words."""

import hashlib
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from flavr_jax import torch_weights


@pytest.mark.parametrize(
    ("name", "container", "dtype", "count"),
    [
        ("official_8x_legacy", "PyTorch legacy", np.float32, 76),
        ("official_2x_half", "PyTorch zip", np.float16, 59),
        ("mc3_2x_views", "PyTorch zip", np.float32, 59),
        ("r2plus1d_2x_bfloat16", "PyTorch legacy", ml_dtypes.bfloat16, 248),
    ],
)
def test_tensors_written_by_pytorch_are_read_bit_for_bit(
    torch_files, golden_tensor, name, container, dtype, count
):
    file = torch_weights.read(torch_files / f"{name}.pth")

    assert file.format == container
    weights = {
        key.removeprefix("module."): tensor
        for key, tensor in file.tensors.items()
        if not key.endswith("num_batches_tracked")
    }
    assert len(weights) == count
    for key, tensor in weights.items():
        assert tensor.dtype == dtype, key
        np.testing.assert_array_equal(tensor, golden_tensor(key, tensor.shape).astype(dtype), key)


def test_plain_values_are_kept_and_the_optimizer_is_left_unread(torch_files):
    file = torch_weights.read(torch_files / "official_8x_legacy.pth")

    assert file.extra == {"epoch": 115, "best_psnr": 31.3125, "lr": 2.5e-05}
    assert file.ignored == ("optimizer",)


def test_logs_of_mmengine_do_not_stand_in_the_way_of_its_weights(torch_files):
    file = torch_weights.read(torch_files / "mmagic_2x.pth")

    assert len(file.tensors) == 59
    assert file.extra == {"meta": {"epoch": 7, "mmengine_version": "0.10.1"}}
    assert file.ignored == ("message_hub",)


def test_scalar_counters_keep_their_type(torch_files):
    tensors = torch_weights.read(torch_files / "r2plus1d_2x_bfloat16.pth").tensors

    counter = tensors["encoder.stem.1.num_batches_tracked"]
    assert (counter.dtype, counter.shape, counter.item()) == (np.int64, (), 3)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("F32", "f4"), ("F16", "f2"), ("F64", "f8"), ("BF16", ml_dtypes.bfloat16), ("I64", "i8")],
)
def test_safetensors_are_read_bit_for_bit(tmp_path, write_safetensors, name, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": (name, array), "b": (name, array[0, 0])})

    file = torch_weights.read(path)

    assert file.format == "safetensors"
    assert file.extra == {"format": "pt"}
    assert file.tensors["a"].dtype == dtype
    np.testing.assert_array_equal(file.tensors["a"], array)
    np.testing.assert_array_equal(file.tensors["b"], array[0, 0])


def test_a_folder_of_raw_tensors_is_read_by_its_file_names(tmp_path):
    kernel = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    (tmp_path / "module.decoder.0.conv.0.weight__2x3x4.bin").write_bytes(kernel.tobytes())
    (tmp_path / "module.decoder.0.conv.0.bias__2.bin").write_bytes(kernel[0, 0, :2].tobytes())
    (tmp_path / "README").write_text("not a tensor")

    file = torch_weights.read(tmp_path)

    assert file.format == "raw folder"
    assert set(file.tensors) == {"module.decoder.0.conv.0.weight", "module.decoder.0.conv.0.bias"}
    np.testing.assert_array_equal(file.tensors["module.decoder.0.conv.0.weight"], kernel)


def test_every_fault_of_a_raw_folder_is_named_at_once(tmp_path):
    (tmp_path / "a__2x3.bin").write_bytes(bytes(20))
    (tmp_path / "b__4.bin").write_bytes(bytes(16))
    (tmp_path / "b__2x2.bin").write_bytes(bytes(16))
    (tmp_path / "c.bin").write_bytes(bytes(4))

    with pytest.raises(ValueError, match=r"a__2x3\.bin has 20 bytes, not 24.*b__4.*c\.bin"):
        torch_weights.read(tmp_path)


def test_provenance_digests_are_those_of_sha256sum(torch_files, tmp_path):
    path = torch_files / "mmagic_2x.pth"
    (tmp_path / "b__1.bin").write_bytes(bytes(4))
    (tmp_path / "a__1.bin").write_bytes(b"\0\0\x80?")
    a, b = (hashlib.sha256(data).hexdigest() for data in (b"\0\0\x80?", bytes(4)))
    listing = f"{a}  a__1.bin\n{b}  b__1.bin\n"

    assert torch_weights.read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch_weights.read(tmp_path).sha256 == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize("name", ["official_8x_legacy.pth", "official_2x_half.pth"])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999])
def test_a_download_that_broke_off_is_a_plain_error(torch_files, tmp_path, name, fraction):
    data = (torch_files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * fraction)])

    with pytest.raises(ValueError, match=name):
        torch_weights.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint"),
        (b"\x80\x02}q\x00.", "none of PyTorch's"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensors"),
        (struct.pack("<Q", 10**12) + b"{}", r"not a sound \.safetensors"),
        (struct.pack("<Q", 6) + b'{"a":}', r"not a sound \.safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_a_plain_error(tmp_path, data, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)

    with pytest.raises(ValueError, match=message):
        torch_weights.read(path)


def test_a_tensor_outside_of_its_safetensors_file_is_a_plain_error(tmp_path, write_safetensors):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": ("F32", np.zeros(8, np.float32))})
    path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(ValueError, match="`a` does not fit"):
        torch_weights.read(path)


def test_an_ordinary_zip_archive_is_a_plain_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/1.txt", "hello")

    with pytest.raises(ValueError, match=r"without a `data\.pkl`"):
        torch_weights.read(tmp_path / "photos.zip")


def test_an_empty_folder_and_a_missing_file_are_plain_errors(tmp_path):
    with pytest.raises(ValueError, match=r"without \.bin files"):
        torch_weights.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        torch_weights.read(tmp_path / "missing.pth")
