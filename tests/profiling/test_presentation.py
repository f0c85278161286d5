# SPDX-License-Identifier: Apache-2.0
"""Lines and tables of measurements, from figures that were worked out by hand."""

import dataclasses
import json

import imageio.v3 as iio
import jax
import pytest

from flavr_jax.profiling import presentation
from flavr_jax.profiling.comparison import Row
from flavr_jax.profiling.costs import LayerCost
from flavr_jax.profiling.timing import CallTimes, Ceilings
from flavr_jax.profiling.trace import Kernel

ROW = Row("xla bf16", CallTimes((4.0, 1.0, 2.0), queued=1.25), error=0.0123, peak_bytes=3 << 29)
COSTS = [
    LayerCost("encoder/stem", dense_flops=2_000_000_000, useful_flops=1_500_000_000, bytes=10**7),
    LayerCost("out", dense_flops=10**8, useful_flops=10**8, bytes=10**6),
]
KERNELS = [
    Kernel("conv", "jit(f)/encoder/stem", 50.0, 1.0),
    Kernel("copy", "jit(f)/encoder/stem", 25.0, 3.0),
    Kernel("loop", "", 5.0, 1.0),
]


def test_a_line_has_median_quartiles_error_and_memory():
    assert presentation.line(ROW) == (
        "xla bf16: 2.000 ms a call (quartiles 1.000 to 4.000), 1.250 ms queued, error 1.2e-02, "
        "1.50 GiB"
    )


def test_figures_are_json_with_the_environment():
    found = json.loads(json.dumps(presentation.figures(ROW)))
    assert (found["median"], found["queued"], found["error"]) == (2.0, 1.25, 0.0123)
    assert f"jax {jax.__version__}" in found["environment"]
    assert "torch" not in found["environment"]


def test_figures_are_read_back_by_their_settings_and_the_last_of_a_name_counts(tmp_path):
    newer = Row(ROW.name, CallTimes((1.0, 3.0), queued=1.0), None)
    other = Row("reference bf16", CallTimes((9.0, 9.0), queued=9.0), None)
    lines = [
        json.dumps({"size": size, **presentation.figures(row)})
        for size, row in (([8, 8], ROW), ([8, 8], newer), ([16, 16], other))
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert presentation.read(tmp_path / "rows.jsonl", {"size": [8, 8]}) == [
        dataclasses.replace(newer, device=jax.devices()[0].device_kind)
    ]


def test_a_cpu_is_measured_in_billions_a_second_and_a_gpu_in_trillions():
    slow = presentation._layer_lines(COSTS, KERNELS, Ceilings(0.05, 0.02), "float32").splitlines()
    # 1.5 billion useful operations in 75 ms are 20 GFLOP/s, 40 % of 50; 10 MB are 0.133 GB/s.
    assert slow[0] == "ceilings here: 50.0 GFLOP/s (float32 product), 20 GB/s (copy)"
    assert "GFLOP/s" in slow[1]
    assert slow[2].split() == ["75.0000", "20.0", "26.7", "40.0", "0.7", "FLOPs", "encoder/stem"]
    assert slow[3].split() == ["nan", "nan", "nan", "nan", "nan", "FLOPs", "out"]
    assert slow[4].split() == ["5.0000", "everything", "else"]
    # 1.6 billion operations at 50 GFLOP/s.
    assert slow[5].split() == [
        "80.0000",
        "in",
        "all;",
        "at",
        "these",
        "ceilings",
        "the",
        "layers",
        "would",
        "take",
        "32.0000",
    ]
    fast = presentation._layer_lines(COSTS, [], Ceilings(700.0, 3.0), "bfloat16").splitlines()
    assert fast[0] == "ceilings here: 700.0 TFLOP/s (bfloat16 product), 3 TB/s (copy)"
    assert "TFLOP/s" in fast[1]
    # 10 MB at 3 TB/s take 3.3 µs, 1.5 GFLOP at 700 TFLOP/s take 2.1 µs.
    assert "bytes" in fast[2].split()


def test_convolutions_of_one_scope_share_a_row():
    costs = [*COSTS, dataclasses.replace(COSTS[0], bytes=2 * 10**7)]
    rows = presentation._layer_lines(costs, KERNELS, Ceilings(0.05, 0.02), "float32").splitlines()
    # Twice the operations and three times the bytes in the same 75 ms.
    assert rows[2].split() == ["75.0000", "40.0", "53.3", "80.0", "2.0", "FLOPs", "encoder/stem"]
    assert rows[3].split()[-1] == "out"
    assert rows[4].split()[-2:] == ["everything", "else"]


def test_kernels_are_listed_with_their_share_of_the_call():
    lines = presentation._kernel_table(KERNELS).splitlines()
    assert lines[0] == "80.000 ms in 3 kernels; the most expensive:"
    assert lines[1].split() == ["50.0000", "ms", "62.5", "%", "1×", "conv", "encoder/stem"]
    assert lines[3].split() == ["5.0000", "ms", "6.2", "%", "1×", "loop"]


def test_stages_stand_beside_pytorchs():
    lines = presentation._stage_table(KERNELS, {"encoder/stem": 150.0}).splitlines()
    assert lines[1].split() == ["75.0000", "150.0000", "2.00×", "encoder/stem"]


def test_rows_become_bars(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="plots are an extra")
    presentation.plot([ROW, ROW], tmp_path / "rows.png", "two rows")
    assert iio.imread(tmp_path / "rows.png").shape[1] == 800
    assert [path.name for path in tmp_path.iterdir()] == ["rows.png"]
    monkeypatch.setattr(presentation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install it, or leave `--plot` out"):
        presentation.plot([ROW], tmp_path / "other.png", "")
