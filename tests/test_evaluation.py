# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax import evaluation
from flavr_jax.data.protocols import PROTOCOLS


def numbered_outputs(windows):
    """A network of factor 8 whose k-th frame is filled with k/8."""
    eighths = np.arange(1, 8, dtype=np.float32)[None, :, None, None, None] / 8
    return np.broadcast_to(eighths, (1, 7, *windows.shape[2:]))


@pytest.mark.parametrize(
    ("protocol", "times"),
    [("fps60-2x", [4 / 8]), ("fps60-4x", [2 / 8, 4 / 8, 6 / 8]), ("fps60-8x", np.arange(1, 8) / 8)],
)
def test_an_8x_network_is_scored_at_the_times_of_the_protocol(protocol, times):
    method = evaluation.method_of_network(numbered_outputs, 7)
    frames = np.zeros((25, 4, 4, 3), np.uint8)
    first = next(iter(method(frames, PROTOCOLS[protocol])))
    np.testing.assert_allclose(first[:, 0, 0, 0], times)


def test_a_factor_that_the_network_cannot_give_is_refused():
    method = evaluation.method_of_network(numbered_outputs, 3)
    with pytest.raises(ValueError, match=r"factor 4.*asks for factor 8"):
        next(iter(method(np.zeros((25, 4, 4, 3), np.uint8), PROTOCOLS["fps60-8x"])))


def test_scores_are_means_over_windows_then_over_sequences(monkeypatch, tmp_path):
    def sequences(folder, protocol):
        yield "long", np.zeros((13, 8, 8, 3), np.uint8)
        yield "short", np.zeros((7, 8, 8, 3), np.uint8)

    def off_by_a_tenth_or_more(frames, protocol):
        offset = 0.1 if len(frames) == 13 else 0.01
        for _ in protocol.windows(frames):
            yield np.full((1, 8, 8, 3), offset, np.float32)

    monkeypatch.setattr(evaluation, "read_sequences", sequences)
    scores = evaluation.score(off_by_a_tenth_or_more, PROTOCOLS["fps60-2x"], tmp_path)
    assert scores["long"].psnr_flavr == pytest.approx(20.0, abs=1e-3)
    assert scores["short"].psnr_flavr == pytest.approx(40.0, abs=1e-3)
    assert evaluation.mean(scores).psnr_flavr == pytest.approx(30.0, abs=1e-3)
