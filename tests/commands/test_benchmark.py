# SPDX-License-Identifier: Apache-2.0
import json

import jax
import pytest

from flavr_jax.commands import benchmark as script
from flavr_jax.config import ModelConfig
from flavr_jax.profiling.timing import Ceilings


# jaxlib 0.12: the type is made on first use, and the warning, were it an error, would abort Python.
@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_a_profile_on_a_cpu_gives_every_layer_a_time_and_a_speed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PRESETS", {"flavr_2x": ModelConfig(width=8)})
    # Measuring them takes ten seconds here.
    monkeypatch.setattr(script.timing, "measure_ceilings", lambda dtype: Ceilings(0.05, 0.01))
    options = script.Options(
        size=(32, 32),
        repeats=2,
        check=False,
        profile=tmp_path / "trace",
        json=tmp_path / "rows.jsonl",
    )
    script.main(options)
    device, row, least, *table = capsys.readouterr().out.splitlines()
    assert "(cpu)" in device
    assert row.startswith("xla fp32: ")
    assert least.startswith("roofline fp32: ")
    figures, _ = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (figures["name"], figures["size"], figures["batch"]) == ("xla fp32", [32, 32], 1)
    start = next(number for number, line in enumerate(table) if "GFLOP/s  %" in line)
    layers = [line.split() for line in table[start + 1 : -2]]
    assert [layer[-1] for layer in layers][:2] == ["encoder/stem", "encoder/layer1/block0/conv1"]
    assert len(layers) == 27
    # Two small shortcuts may be fused into other layers; everything else has a time of its own.
    timed = [layer for layer in layers if layer[0] != "nan"]
    assert len(timed) >= 24
    assert all(float(milliseconds) > 0 for milliseconds, *_ in timed)
    assert sum(float(useful) > 0 for _, useful, *_ in timed) >= 20


@pytest.mark.parametrize("look_ups", [False, True])
def test_kernels_that_cannot_run_here_are_refused_with_another_choice(look_ups):
    if jax.default_backend() != "cpu":
        pytest.skip("needs a CPU as the default device")
    options = script.Options(implementations=("xla", "mosaic_gpu"), look_ups=look_ups)
    with pytest.raises(ValueError, match=r"Hopper GPU.* a CPU\. Leave it out: --impl.* xla"):
        script.main(options)
