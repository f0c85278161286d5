# SPDX-License-Identifier: Apache-2.0
"""Why JAX does not see an NVIDIA GPU, and what to do about it.

JAX needs four things: NVIDIA's driver, the device file that the driver creates, JAX's CUDA plugin
in the version of jaxlib, and an environment that does not hide them. If one is missing, JAX
computes on the CPU, often without a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from flavr_jax.extras import install_command

__all__ = ["GpuSetup", "find", "problems"]

_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/sys/module/nvidia/version"))
# Windows' driver, which WSL 2 lends to Linux without files of its own.
_WSL_DRIVER = Path("/usr/lib/wsl/lib/libcuda.so.1")
# Oldest drivers for the CUDA versions of JAX's plugins (NVIDIA's CUDA compatibility tables).
_OLDEST_DRIVER = {"cuda12": 525, "cuda13": 580}


@dataclass(frozen=True)
class GpuSetup:
    """Facts about this machine and installation.

    Attributes:
        device_file: whether the driver created a file for a GPU, or WSL 2 lends Windows' driver.
        driver: version of NVIDIA's driver, if it is loaded.
        plugins: versions of JAX's installed CUDA plugins, by extra: cuda12, cuda13.
        jaxlib: version of jaxlib.
        environment: the environment variables.
        seen: the kinds of GPUs that JAX sees.
        failure: JAX's message if it sees none.
    """

    device_file: bool
    driver: str | None
    plugins: Mapping[str, str]
    jaxlib: str
    environment: Mapping[str, str]
    seen: tuple[str, ...] = ()
    failure: str = ""


def find() -> GpuSetup:
    """Collect the facts; this starts JAX and its devices."""
    import jax

    try:
        seen, failure = tuple(device.device_kind for device in jax.devices("gpu")), ""
    except (RuntimeError, AssertionError) as error:
        # JAX fails by an assertion without words if JAX_PLATFORMS names only what is not there.
        seen, failure = (), " ".join(str(error).split()) or "JAX cannot start any device."
    return GpuSetup(
        any(Path("/dev").glob("nvidia[0-9]*")) or _WSL_DRIVER.exists(),
        _driver(),
        {extra: version for extra in _OLDEST_DRIVER if (version := _plugin(extra))},
        metadata.version("jaxlib"),
        dict(os.environ),
        seen,
        failure,
    )


def problems(setup: GpuSetup) -> list[str]:
    """Return what is wrong, each with its remedy; nothing on a machine without an NVIDIA GPU."""
    found = [*_of_plugins(setup)]
    has_gpu = setup.device_file or setup.driver is not None
    if not setup.plugins:
        if has_gpu and not setup.seen:
            found.append(
                "This machine has an NVIDIA GPU, but JAX is installed without CUDA and computes on "
                f"the CPU. {_install(setup)}"
            )
        return found
    if setup.seen:
        return found
    if setup.driver is None and not setup.device_file:
        return [
            *found,
            "JAX's CUDA plugin is installed, but NVIDIA's driver is not loaded. Install the driver "
            f"{_needed(setup)} or newer; start a container with --gpus all. Without a GPU, run "
            f"pip uninstall {_packages(*setup.plugins)}.",
        ]
    if not setup.device_file:
        found.append(
            "NVIDIA's driver is loaded, but there is no /dev/nvidia0 or another GPU: this "
            "container or job was started without one. Use docker run --gpus all, or ask your "
            "scheduler for a GPU."
        )
    found += _of_environment(setup)
    if not found:
        found.append(
            f"JAX does not use the GPU: {setup.failure} {_install(setup)} in a new virtual "
            "environment."
        )
    return found


def _of_plugins(setup: GpuSetup) -> list[str]:
    """Return problems of the plugins' versions."""
    found = []
    if len(setup.plugins) > 1:
        found.append(
            "The plugins for CUDA 12 and CUDA 13 are both installed. Keep one: pip uninstall "
            f"{_packages('cuda12')}."
        )
    for extra, version in setup.plugins.items():
        if _numbers(version)[:3] != _numbers(setup.jaxlib)[:3]:
            found.append(
                f"JAX's {extra} plugin has version {version}, but jaxlib has {setup.jaxlib}; JAX "
                f"leaves a plugin of another version out. Run {install_command(extra)} -U."
            )
        if setup.driver and _numbers(setup.driver)[0] < _OLDEST_DRIVER[extra]:
            found.append(
                f"NVIDIA's driver has version {setup.driver}; {extra} needs "
                f"{_OLDEST_DRIVER[extra]} or newer. Update the driver"
                + (f", or run {install_command('cuda12')}." if _can_run_cuda12(setup) else ".")
            )
    return found


def _of_environment(setup: GpuSetup) -> list[str]:
    """Return the environment variables that hide the GPU or its libraries."""
    found = []
    platforms = setup.environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.lower().split(",")):
        found.append(f"JAX_PLATFORMS={platforms} excludes the GPU. Unset it, or set it to cuda.")
    visible = setup.environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        found.append(f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs. Unset it.")
    libraries = setup.environment.get("LD_LIBRARY_PATH", "")
    if re.search(r"cuda|cudnn|nvidia", libraries, re.IGNORECASE):
        found.append(
            f"LD_LIBRARY_PATH={libraries} puts other CUDA libraries before those that came with "
            "JAX. Unset it."
        )
    return found


def _install(setup: GpuSetup) -> str:
    """Return the sentence with the extra to install for this driver."""
    major = _numbers(setup.driver)[0] if setup.driver else _OLDEST_DRIVER["cuda12"]
    if major < _OLDEST_DRIVER["cuda12"]:
        return f"Update NVIDIA's driver {setup.driver} first, then run {install_command('cuda13')}"
    extra = "cuda13" if major >= _OLDEST_DRIVER["cuda13"] else "cuda12"
    return f"Run {install_command(extra)}"


def _can_run_cuda12(setup: GpuSetup) -> bool:
    driver = _numbers(setup.driver or "0")[0]
    return "cuda12" not in setup.plugins and driver >= _OLDEST_DRIVER["cuda12"]


def _needed(setup: GpuSetup) -> int:
    return min(_OLDEST_DRIVER[extra] for extra in setup.plugins)


def _packages(*extras: str) -> str:
    return " ".join(f"jax-{extra}-plugin jax-{extra}-pjrt" for extra in extras)


def _plugin(extra: str) -> str | None:
    try:
        return metadata.version(f"jax-{extra}-plugin")
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    for file in _DRIVER_FILES:
        if file.exists() and (number := re.search(r"\d{3,}(\.\d+)+", file.read_text())):
            return number[0]
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)) or (0,)
