# SPDX-License-Identifier: Apache-2.0
"""The head without Ray: a cluster that runs one task at a time, in this process."""

from __future__ import annotations

import sys
from collections import deque
from fractions import Fraction
from pathlib import Path

import pytest

from flavr_jax.farm import head
from flavr_jax.farm.clip import Clip, Fractions, Plan, Setup, Times, Wishes
from flavr_jax.farm.cluster import Cluster, connected
from flavr_jax.farm.progress import Line
from flavr_jax.inference.stream import Summary
from flavr_jax.inference.tiles import WHOLE
from flavr_jax.progress import Reporter
from flavr_jax.timeline.schedule import Grid
from flavr_jax.video.frames import ClipInfo

INFO = ClipInfo(32, 24, Fraction(10), Fraction(1, 10), 40)


def plan_of(count, damage=None):
    """A plan in which each key is shown once."""
    pts, once = Fractions(list(range(count)), 10), Fractions([1] * count, 10)
    links = ["cut", *["motion"] * (count - 1)]
    positions = Fractions([0] * count, 1)
    wishes = Wishes(links, pts, list(range(count + 1)), positions, [1] * count)
    return Plan(wishes, Times(pts, once), Summary(frames_out=count), damage)


class Inline(Cluster):
    """Takes up to ``room`` tasks, and ends them in order; ``losses`` are lost first."""

    def __init__(self, frames, *, room=1, losses=0, fails=(), damaged=(), whole=()):
        self.frames, self.room, self.losses = frames, room, losses
        self.fails, self.damaged, self.whole = fails, damaged, whole
        self.count, self.lost = 2, 0
        self.started, self.cancelled, self.flight = [], [], deque()

    busy = property(lambda self: len(self.flight))
    has_room = property(lambda self: len(self.flight) < self.room)

    def hire(self):
        pass

    def start(self, call):
        self.started.append((call.step, call.arguments[0].path.name))
        self.flight.append(call)

    def cancel(self, owner):
        self.cancelled.append(owner.clip.path.name)
        self.flight = deque(call for call in self.flight if call.owner is not owner)

    def ended(self):
        call = self.flight.popleft()
        if call.step == "render" and self.losses:
            self.losses -= 1
            self.lost += 1
            yield call, None
            return
        yield call, self._result(call, call.arguments[0].path.name)

    def _result(self, call, name):
        if (call.step, name) in self.fails:
            return ValueError("`factor` is 3; use 4.")
        if call.step == "prepare":
            grid = Grid((4,))
            return Setup({}, INFO, grid, 1, WHOLE, 4, name not in self.whole), ["it is interlaced"]
        if call.step == "scan":
            damage = "its end is missing" if name in self.damaged else None
            return plan_of(self.frames[name], damage), []
        if call.step == "render":
            stretch, folder = call.arguments[2:]
            (folder / f"{stretch.first:06d}.segment").touch()
            return len(stretch.times), []
        if call.step == "whole":
            return (
                Summary(frames_out=9),
                "its end is missing" if name in self.damaged else None,
            ), []
        return 0, []


@pytest.fixture
def render(tmp_path):
    def run(cluster, mode="quiet"):
        clips = [
            Clip(Path(name), str(tmp_path / f"{name}.mp4"), segment=10) for name in cluster.frames
        ]
        return head.render(clips, cluster, Reporter(mode))

    return run


def test_clips_get_a_task_each_in_turn(render):
    cluster = Inline({"long": 90, "short": 30})
    outcomes = render(cluster)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    rendered = [name for step, name in cluster.started if step == "render"]
    assert rendered[:6] in (["long", "short"] * 3, ["short", "long"] * 3)
    # The short clip is whole long before the long one.
    assert cluster.started.index(("join", "short")) < len(cluster.started) - 6


def test_few_clips_are_open_at_a_time_so_that_the_first_are_finished_early(render):
    cluster = Inline({f"clip {n}": 20 for n in range(12)})
    render(cluster)
    steps = cluster.started
    assert steps.index(("join", "clip 0")) < steps.index(("prepare", "clip 8"))


def test_a_task_of_a_lost_worker_is_started_again(render):
    cluster = Inline({"one": 40}, losses=3)
    (outcome,) = render(cluster)
    assert (outcome.code, outcome.summary.frames_out) == (0, 40)
    assert sum(step == "render" for step, _ in cluster.started) == 4 + 3


def test_finished_segments_are_not_rendered_again(render, tmp_path):
    cluster = Inline({"one": 40}, fails=[("join", "one")])
    assert render(cluster)[0].code == 2
    (folder,) = tmp_path.glob("one.partial-*")
    (folder / "000002.segment").unlink()
    again = Inline({"one": 40})
    assert render(again)[0].code == 0
    assert [step for step, _ in again.started] == ["prepare", "scan", "render", "join"]


def test_a_clip_that_fails_stops_no_other(render, capsys):
    cluster = Inline({"bad": 40, "good": 40}, fails=[("render", "bad")], room=3)
    bad, good = render(cluster)
    assert (bad.code, bad.note, good.code) == (2, "`factor` is 3; use 4.", 0)
    assert "bad" in cluster.cancelled
    shown = capsys.readouterr().err
    assert "warning: bad failed: `factor` is 3; use 4." in shown
    assert "warning: good: it is interlaced" in shown


@pytest.mark.parametrize(("damaged", "code"), [([], 0), (["one"], 1)])
def test_damaged_and_indivisible_clips_are_left_to_one_worker(render, damaged, code):
    cluster = Inline({"one": 40}, damaged=damaged, whole=[] if damaged else ["one"])
    (outcome,) = render(cluster)
    assert outcome.code == code
    assert [step for step, _ in cluster.started][-1] == "whole"
    assert "render" not in dict(cluster.started)


def test_an_output_that_exists_is_left_as_it_is(render, tmp_path):
    (tmp_path / "one.mp4").write_text("finished")
    cluster = Inline({"one": 40})
    (outcome,) = render(cluster)
    assert outcome.code == 0
    assert "exists" in outcome.note
    assert not cluster.started


def test_two_runs_never_render_into_one_journal(render, tmp_path):
    cluster = Inline({"one": 40})
    result = cluster._result

    def meanwhile(call, name):
        if call.step == "join":
            return result(call, name)
        if call.step == "render" and cluster.room == 1:
            cluster.room = 2
            (other,) = render(Inline({"one": 40}))
            assert (other.code, "another run" in other.note) == (2, True)
        return result(call, name)

    cluster._result = meanwhile
    assert render(cluster)[0].code == 0


def test_progress_counts_frames_of_this_and_of_earlier_runs(capsys):
    class One:
        frames, kept, made, outcome = 100, 40, 0, None

    with Line(Reporter("json")) as line:
        line._shown -= 60
        line.show([One(), One()], 3, 0)
        line._shown -= 60
        One.made = 30
        line.show([One(), One()], 3, 1)
    first, second = capsys.readouterr().out.splitlines()
    assert '"done": 80, "total": 200, "clips_done": 0, "clips": 2, "workers": 3' in first
    assert '"seconds_left": null' in first
    assert '"done": 140' in second
    assert '"lost": 1' in second


class FakeRay:
    """The part of Ray that connecting uses."""

    def __init__(self, dashboard_url=None, refuses=False):
        self.dashboard_url, self.refuses, self.running, self.asked = (
            dashboard_url,
            refuses,
            False,
            [],
        )

    def is_initialized(self):
        return self.running

    def init(self, address, **options):
        self.asked.append(address)
        if self.refuses:
            raise ConnectionError("no answer")
        self.running = True
        return self

    def shutdown(self):
        self.running = False


@pytest.mark.parametrize(
    ("url", "link"), [("127.0.0.1:8265", "http://127.0.0.1:8265"), ("", None), (None, None)]
)
def test_the_link_of_the_dashboard_is_given_if_there_is_one(monkeypatch, url, link):
    ray = FakeRay(url)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with connected("local") as (used, shown):
        assert used is ray
        assert ray.running
        assert (shown or None) == link
    assert not ray.running
    assert ray.asked == ["local"]


def test_a_cluster_that_does_not_answer_and_a_missing_ray_are_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(refuses=True))
    answer = r"no Ray cluster answers at 10\.0\.0\.1:6379.*ray start"
    with pytest.raises(OSError, match=answer), connected("10.0.0.1:6379"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = r"needs Ray\. Run pip install .*farm\]"
    with pytest.raises(ModuleNotFoundError, match=answer), connected(None):
        pass
