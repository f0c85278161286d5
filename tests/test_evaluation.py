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


def test_boundaries_are_scored_on_the_end_intervals_with_made_up_context(monkeypatch, tmp_path):
    frames = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, (9, 8, 8, 3))
    monkeypatch.setattr(evaluation, "read_sequences", lambda folder, protocol: [("ramp", frames)])

    def outer_frames_mean(windows):
        """Exact on a ramp when the outer frames continue it; 7 equal outputs."""
        return np.repeat((windows[:, :1] + windows[:, 3:]) / 2, 7, axis=1)

    scores = evaluation.score_boundaries(outer_frames_mean, 7, PROTOCOLS["fps60-2x"], tmp_path)
    assert set(scores) == {"mirror", "duplicate", "extrapolate"}
    # Clipped at black, the first frame cannot be extrapolated; the last one can, exactly (80 dB).
    first_error = 40 / 255 / 2
    expected = (-20 * np.log10(first_error) + 80) / 2
    assert scores["extrapolate"]["ramp"].psnr_flavr == pytest.approx(expected, abs=0.1)
    # Duplicates are off by half a step of 40, mirrored frames by a whole one.
    duplicate = -20 * np.log10(40 / 255 / 2)
    assert scores["duplicate"]["ramp"].psnr_flavr == pytest.approx(duplicate, abs=0.1)
    mirror = -20 * np.log10(40 / 255)
    assert scores["mirror"]["ramp"].psnr_flavr == pytest.approx(mirror, abs=0.1)
