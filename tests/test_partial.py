# SPDX-License-Identifier: Apache-2.0
"""Outputs appear whole, and nothing that they did not create is ever removed."""

import errno
import os
import threading
from pathlib import Path

import pytest

from flavr_jax import partial
from flavr_jax.partial import Partial, written_whole


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def is_note(entry: Path) -> bool:
    return entry.suffix == ".note"


def test_a_file_appears_under_its_name_when_it_is_complete(tmp_path):
    with Partial(tmp_path / "a.mp4") as out:
        out.path.write_text("whole")
        assert names(tmp_path) == {out.path.name}
        assert out.path.suffix == ".mp4"  # FFmpeg chooses the container by it
    assert names(tmp_path) == {"a.mp4"}
    assert (tmp_path / "a.mp4").read_text() == "whole"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("folder", [False, True])
def test_an_interrupted_output_is_removed(tmp_path, error, folder):
    def run():
        with Partial(tmp_path / "a.x", folder=folder) as out:
            (out.path / "b" if folder else out.path).write_text("half")
            raise error

    with pytest.raises(error):
        run()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("folder", [False, True])
def test_what_has_a_partial_name_survives(tmp_path, monkeypatch, folder):
    drawn = iter(["a.partial.mp4", "a.partial-1.mp4", "a.partial-2.mp4"])
    monkeypatch.setattr(partial, "partial_name", lambda target: next(drawn))
    (tmp_path / "a.partial.mp4").write_text("an input")
    (tmp_path / "a.partial-1.mp4").mkdir()
    (tmp_path / "a.partial-1.mp4" / "1.png").write_text("an image")
    with Partial(tmp_path / "a.mp4", folder=folder) as out:
        assert out.path.name == "a.partial-2.mp4"
    assert (tmp_path / "a.partial.mp4").read_text() == "an input"
    assert (tmp_path / "a.partial-1.mp4" / "1.png").read_text() == "an image"


@pytest.mark.parametrize(
    "name", ["n" * 251 + ".mp4", "ä" * 125 + ".mp4", "a." + "s" * 250, "映" * 83 + ".mkv", "." * 9]
)
def test_the_longest_names_can_be_written(tmp_path, name):
    target = tmp_path / name
    with Partial(target) as out:
        assert len(os.fsencode(out.path.name)) <= 255
        out.path.write_text("whole")
    assert target.read_text() == "whole"


@pytest.mark.parametrize("name", ["a.mp4", "n" * 251 + ".mp4", "a.partial-b.mp4"])
def test_partial_outputs_are_known_by_their_names(tmp_path, name):
    target = tmp_path / name
    assert partial.is_partial(target.with_name(partial.partial_name(target)), target)
    for other in ("a.mp4", "b.partial-1.mp4", "nnn.partial-1.mp4", "a.mp4.partial-1"):
        assert not partial.is_partial(tmp_path / other, target)
    assert not partial.is_partial(tmp_path / "x" / partial.partial_name(target), target)


def test_of_two_runs_at_one_output_the_second_keeps_its_result_under_another_name(tmp_path):
    target = tmp_path / "a.mp4"
    first, second = Partial(target), Partial(target)
    first.path.write_text("first")
    second.path.write_text("second")
    with first:
        pass
    with pytest.raises(OSError, match="kept as") as error, second:
        pass
    assert target.read_text() == "first"
    assert str(second.path) in str(error.value)
    assert second.path.read_text() == "second"


def test_of_two_runs_that_overwrite_each_ends_whole(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_text("older")
    barrier = threading.Barrier(2)

    def run(text: str) -> None:
        with Partial(target, overwrite=True) as out, out.path.open("w") as file:
            for _ in range(1000):
                file.write(text)
            barrier.wait()

    threads = [threading.Thread(target=run, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in ("a" * 1000, "b" * 1000)
    assert names(tmp_path) == {"a.mp4"}


def test_of_two_folders_at_one_output_the_second_keeps_its_result(tmp_path):
    target = tmp_path / "frames"
    first, second = Partial(target, folder=True), Partial(target, folder=True)
    for out, text in ((first, "first"), (second, "second")):
        (out.path / "1.png").write_text(text)
    with first:
        pass
    with pytest.raises(OSError, match="kept as"), second:
        pass
    assert (target / "1.png").read_text() == "first"
    assert (second.path / "1.png").read_text() == "second"


def test_without_hard_links_an_existing_file_is_kept_all_the_same(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    with written_whole(tmp_path / "a", overwrite=False) as name:
        name.write_text("first")
    assert (tmp_path / "a").read_text() == "first"
    out = Partial(tmp_path / "b")
    (tmp_path / "b").write_text("another's")
    with pytest.raises(OSError, match="kept as"), out:
        pass
    assert (tmp_path / "b").read_text() == "another's"


def test_replacing_a_folder_keeps_what_others_put_into_it(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    for name in ("1.note", "2.note", "thesis.tex"):
        (target / name).write_text("older")
    with Partial(target, overwrite=True, folder=True, ours=is_note) as out:
        (out.path / "1.note").write_text("newer")
        (target / "added.later").write_text("by the user")
    assert names(target) == {"1.note", "thesis.tex", "added.later"}
    assert (target / "1.note").read_text() == "newer"
    assert names(tmp_path) == {"out"}


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        Partial(tmp_path / "out", overwrite=True, folder=True, ours=is_note)
    assert names(tmp_path) == {"out"}


def test_an_output_goes_where_a_symbolic_link_points(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "frames").symlink_to(tmp_path / "disk")
    (tmp_path / "a.mp4").symlink_to(tmp_path / "disk" / "b.mp4")
    with Partial(tmp_path / "a.mp4") as out:
        out.path.write_text("whole")
    assert (tmp_path / "disk" / "b.mp4").read_text() == "whole"
    (tmp_path / "disk" / "b.mp4").unlink()
    with Partial(tmp_path / "frames", folder=True) as out:
        (out.path / "1.note").write_text("whole")
    assert (tmp_path / "frames").is_symlink()
    assert names(tmp_path / "disk") == {"1.note"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(FileExistsError, match="a device or a pipe"):
        Partial(tmp_path / "a.mp4", overwrite=True)
    with pytest.raises(FileExistsError, match="a device or a pipe"):
        Partial(tmp_path / "a.mp4", folder=True)
    assert (tmp_path / "a.mp4").is_fifo()


def test_content_inside_a_folder_can_take_the_name(tmp_path):
    with Partial(tmp_path / "a", folder=True) as out:
        (out.path / "new").mkdir()
        (out.path / "scratch").write_text("not needed")
        out.commit(out.path / "new")
    assert names(tmp_path) == {"a"}
    assert names(tmp_path / "a") == set()


def test_a_result_that_is_kept_stays_under_its_name(tmp_path):
    with Partial(tmp_path / "a.mp4") as out:
        out.path.write_text("hours of work")
        kept = out.keep()
    assert names(tmp_path) == {kept.name}
    assert kept.read_text() == "hours of work"
