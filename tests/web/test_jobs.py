# SPDX-License-Identifier: Apache-2.0
"""The queue runs one child at a time, and ends, explains and deletes what it should."""

import asyncio
import contextlib
import os

import pytest

from flavr_jax.web.choices import Choices
from flavr_jax.web.jobs import Queue
from flavr_jax.web.limits import Limits, Refused

DEFAULTS = Limits()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


@pytest.fixture
def running(engine, folder):
    """Opens a queue that runs; use it with ``async with``."""

    @contextlib.asynccontextmanager
    async def running(limits=DEFAULTS, **options):
        queue = Queue(engine, folder, limits, **options)
        task = asyncio.create_task(queue.run())
        yield queue
        task.cancel()
        await asyncio.wait([task])

    return running


def put(queue, kind, name="clip.mp4"):
    clip = queue.add("visitor", name, Choices(factor=4))
    clip.upload.write_text(kind)
    queue.start(clip)
    return clip


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def is_alive(folder):
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_clips_run_in_turn_and_keep_results_only(running, folder, monkeypatch):
    monkeypatch.setenv("FLAVR_PASSWORD", "correct horse")

    async def scenario():
        async with running() as queue:
            first, second = put(queue, "good", "Holiday 1.MOV"), put(queue, "good")
            assert (queue.ahead(first), queue.ahead(second)) == (0, 1)
            assert second.state == "waiting"
            await until(lambda: second.state == "done")
            assert first.state == "done"
            assert first.files["result"].name == "Holiday_1_4x.mp4"
            assert first.files["result"].read_bytes() == bytes(range(256))
            assert first.files["report"].read_text() == "<h1>report</h1>"
            assert first.warnings == ["Holiday 1.MOV is odd"]
            assert first.weakest[0]["time"] == 0.5
            assert (first.facts["cut_times"], first.facts["frames_out"]) == ([1.5], 17)
            assert "/server" not in str(first.facts)  # a visitor sees no path of the server
            assert not first.upload.exists()
            assert queue.seconds_kept(first) == pytest.approx(3600, abs=30)
        assert (folder / "secret").read_text() == "none"

    asyncio.run(scenario())


def test_progress_is_shown_and_cancelling_ends_the_child_at_once(running, folder):
    async def scenario():
        async with running() as queue:
            clip, following = put(queue, "wait"), put(queue, "good")
            await until(lambda: clip.progress)
            assert clip.progress == {
                "done": 5, "total": 17, "per_second": 2.0, "seconds_left": 6.0,
            }  # fmt: skip
            assert (clip.state, clip.step) == ("running", "making frames")
            assert is_alive(folder)
            await queue.cancel(clip)
            assert not is_alive(folder)
            assert (clip.state, clip.folder.exists()) == ("cancelled", False)
            await until(lambda: following.state == "done")

    asyncio.run(scenario())


def test_a_waiting_clip_can_be_cancelled(running):
    async def scenario():
        async with running() as queue:
            put(queue, "wait")
            clip = put(queue, "good")
            await queue.cancel(clip)
            assert (clip.state, clip.folder.exists()) == ("cancelled", False)
            await queue.remove(clip)
            assert clip.id not in queue.clips

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "limits", "message"),
    [
        ("fail", Limits(), "My clip.mp4 is bad; see x.mp4"),
        ("crash", Limits(), "The program ended unexpectedly (code -9). It may lack memory."),
        (
            "wait",
            Limits(hours=0.0001),
            "The run took longer than 0.0001 hours, the limit here.",
        ),
    ],
)
def test_failures_are_explained_without_paths_of_the_server(running, kind, limits, message):
    async def scenario():
        async with running(limits) as queue:
            clip, following = put(queue, kind, "My clip.mp4"), put(queue, "good")
            await until(lambda: clip.state == "failed")
            assert clip.message == message
            assert not clip.folder.exists()
            if kind != "wait":
                await until(lambda: following.state == "done")

    asyncio.run(scenario())


def test_a_clip_is_deleted_an_hour_after_it_ended(running):
    async def scenario():
        now = 1000.0
        async with running(now=lambda: now) as queue:
            clip = put(queue, "good")
            await until(lambda: clip.state == "done")
            now += 3599
            await queue.expire()
            assert clip.files["result"].exists()
            assert queue.seconds_kept(clip) == 1
            now += 1
            await queue.expire()
            assert not clip.folder.exists()
            assert not queue.clips

    asyncio.run(scenario())


def test_the_end_of_the_server_ends_the_child(running, folder):
    async def scenario():
        async with running() as queue:
            clip = put(queue, "wait")
            await until(lambda: clip.progress)
        assert not is_alive(folder)

    asyncio.run(scenario())


def test_a_full_server_takes_no_more(running):
    async def scenario():
        async with running(Limits(clips=1)) as queue:
            clip = put(queue, "good")
            with pytest.raises(Refused, match="holds 1 clips") as refused:
                queue.add("other", "clip.mp4", Choices())
            assert refused.value.status == 503
            await queue.remove(clip)
            put(queue, "good")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../etc/passwd", "passwd"), ("a%03d.gif", "a_03d.gif"), ("-x.mp4", "x.mp4"),
        (r"C:\videos\a.avi", "a.avi"), ("", "clip"), (".mp4", "clip.mp4"),
        ("Ürlaub 1.tar.MP4", "Ürlaub_1_tar.mp4"),
        ("http://host/a.m3u8?x", "a.m3u8x"), ("a" * 250 + ".mkv", "a" * 60 + ".mkv"),
    ],
)  # fmt: skip
def test_names_of_uploads_are_made_harmless(engine, folder, name, stored):
    clip = Queue(engine, folder, Limits()).add("visitor", name, Choices())
    assert clip.upload == clip.folder / "upload" / stored
    assert clip.output.parent == clip.folder
    assert clip.folder.parent == folder
