# SPDX-License-Identifier: Apache-2.0
"""Say what an installation can do, and what is wrong with it: ``flavr doctor``."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import jax
import jax.numpy as jnp

import flavr_jax
from flavr_jax import gpu_setup, program_cache
from flavr_jax.bundled import DEFAULT_CHECKPOINT, SAMPLE
from flavr_jax.extras import install_command
from flavr_jax.video.files import encoders
from pallas_kernels.core import device

_PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "av")
# A package of each optional extra, by which an installed extra is recognised.
_EXTRAS = {
    "train": "grain",
    "web": "starlette",
    "export": "flatbuffers",
    "onnx": "onnx",
    "metrics": "cv2",
}
_ROOM = 2e9  # bytes that compiled programs and a short clip need at most


@dataclass(frozen=True)
class Options:
    """Print versions, devices, codecs and caches, and say what is wrong with the installation.

    The exit code is 1 if something is wrong, otherwise 0.
    """


def main(options: Options) -> int:
    """Print the report and the problems; return 1 if there are any."""
    program_cache.enable()
    setup = gpu_setup.find()
    for name, value in _report(setup):
        print(f"{name:<12} {value}")
    found = [*gpu_setup.problems(setup), *_of_devices(), *_of_files(), *_of_codecs()]
    for problem in found:
        print(f"problem: {problem}")
    print("Nothing is wrong." if not found else f"{len(found)} problem(s).")
    return 1 if found else 0


def _report(setup: gpu_setup.GpuSetup) -> Iterator[tuple[str, str]]:
    """Yield the lines of the report: a name and a text."""
    yield "flavr_jax", f"{flavr_jax.__version__} in {Path(flavr_jax.__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}, {sys.prefix}"
    yield "packages", ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    yield (
        "ffmpeg",
        ", ".join(
            f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items()
        ),
    )
    devices = [f"{each.device_kind} ({each.platform})" for each in _devices()]
    yield "devices", f"{', '.join(devices) or 'none for JAX'}; {os.cpu_count()} CPU cores"
    plugins = ", ".join(f"{extra} {version}" for extra, version in setup.plugins.items())
    yield "nvidia", f"driver {setup.driver or 'not loaded'}; plugins {plugins or 'not installed'}"
    if devices:
        refused = device.why_not()
        yield "kernels", "Mosaic GPU kernels for Hopper" if refused is None else f"XLA: {refused}"
        slow = device.why_not_int8()
        yield "int8", "fast convolutions" if slow is None else f"not faster than float32: {slow}"
    works = [name for name in encoders.ENCODERS if encoders.failure(name) is None]
    yield "encoders", " ".join(works)
    cache = _cache()
    yield "programs", "no cache folder" if cache is None else f"{_size(cache)} in {cache}"
    yield "checkpoint", f"{_size(DEFAULT_CHECKPOINT)} in {DEFAULT_CHECKPOINT}"
    for extra, module in _EXTRAS.items():
        installed = importlib.util.find_spec(module) is not None
        yield f"[{extra}]", "installed" if installed else install_command(extra)


def _of_devices() -> list[str]:
    """Compute a small convolution, which needs the libraries of the device, such as cuDNN."""
    devices = _devices()
    if not devices:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        return [f"JAX starts no device with JAX_PLATFORMS={chosen!r}. Unset it, or set it to cpu."]
    kind = devices[0].device_kind
    image, weights = jnp.ones((1, 8, 8, 8, 4)), jnp.ones((3, 3, 3, 4, 4))
    try:
        found = jax.lax.conv_general_dilated(
            image, weights, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        centre = float(found[0, 4, 4, 4, 0])  # 27 products for each of the 4 channels
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        if "RESOURCE_EXHAUSTED" in reason or "out of memory" in reason.lower():
            return [
                f"The device {kind} has no memory left for a small convolution: {reason}. End the "
                "program that holds it (nvidia-smi lists them), or choose another GPU with "
                "CUDA_VISIBLE_DEVICES."
            ]
        return [
            f"The device {kind} cannot compute a convolution: {reason}. Set JAX_PLATFORMS=cpu, or "
            "install JAX in a new virtual environment."
        ]
    if centre != 108:
        return [
            f"The device {kind} computes wrong numbers: a convolution gives {centre}, not 108. "
            "Set JAX_PLATFORMS=cpu and update its driver."
        ]
    return []


def _devices() -> Sequence[Any]:
    """Return the devices that JAX starts; none if JAX_PLATFORMS names only what is not there."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError):
        return []


def _of_files() -> list[str]:
    """Return problems of bundled files and of the cache."""
    found = [
        f"{path} is missing from the installation. Install flavr_jax again."
        for path in (DEFAULT_CHECKPOINT, SAMPLE)
        if not path.exists()
    ]
    cache = _cache()
    if cache is None:
        return found
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        found.append(
            f"Compiled programs cannot be kept in {cache}: {parent} is not writable. Set "
            "JAX_COMPILATION_CACHE_DIR to a folder of yours."
        )
    elif (free := shutil.disk_usage(parent).free) < _ROOM:
        found.append(
            f"{parent} has {free / 1e9:.1f} GB free; compiled programs can need "
            f"{_ROOM / 1e9:.0f} GB. Free some, or set JAX_COMPILATION_CACHE_DIR to a larger disk."
        )
    return found


def _of_codecs() -> list[str]:
    if (reason := encoders.failure("libx264")) is None:
        return []
    return [
        f"H.264, the default for .mp4, cannot be written ({reason}). Install PyAV's own wheel with "
        "pip install --force-reinstall --only-binary :all: av, or use --codec."
    ]


def _cache() -> Path | None:
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    return None if folder is None else Path(folder)


def _size(folder: Path) -> str:
    files = (file for file in folder.rglob("*") if file.is_file())
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
