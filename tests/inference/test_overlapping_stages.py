# SPDX-License-Identifier: Apache-2.0
"""Stages run at the same time, keep order, pass on errors, and end when nobody reads them."""

from __future__ import annotations

import contextvars
import itertools
import logging
import signal
import threading
import time

import pytest

from flavr_jax.inference.pipeline import Pipeline

WAIT = 10.0  # seconds; longer than anything here takes on a busy machine


def until(condition):
    """Wait until a condition holds; fail if it never does."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_items_pass_through_all_stages_in_order():
    with Pipeline() as pipeline:
        numbers = pipeline.stage("count", iter(range(1000)), capacity=3)
        doubled = pipeline.stage("double", (2 * number for number in numbers), capacity=1)
        assert list(doubled) == list(range(0, 2000, 2))


def test_stages_run_at_the_same_time():
    # Each side waits for the other, which only threads can satisfy.
    first, second = threading.Event(), threading.Event()

    def items():
        yield 0
        second.wait(WAIT)
        first.set()
        yield 1

    with Pipeline() as pipeline:
        read = pipeline.stage("produce", items())
        assert next(read) == 0
        second.set()
        assert first.wait(WAIT)
        assert list(read) == [1]


def test_a_stage_runs_ahead_by_its_capacity_and_no_further():
    made = []

    def items():
        for number in itertools.count():
            made.append(number)
            yield number

    with Pipeline() as pipeline:
        read = pipeline.stage("count", items(), capacity=3)
        next(read)
        until(lambda: len(made) >= 4)
        time.sleep(0.05)
        # Those taken together with the first, those in the queue, and one that waits for room.
        assert len(made) <= 3 + 3 + 1
        for _ in range(20):
            next(read)
        assert len(made) <= 21 + 3 + 3 + 1


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(2), MemoryError()])
def test_an_error_arrives_in_place_of_the_item_that_it_prevented(error):
    def items():
        yield 1
        yield 2
        raise error

    with Pipeline() as pipeline:
        first = pipeline.stage("produce", items())
        read = pipeline.stage("pass on", (number for number in first))
        assert [next(read), next(read)] == [1, 2]
        with pytest.raises(type(error)) as caught:
            next(read)
    assert caught.value is error


def test_threads_end_and_close_their_generators_when_the_reader_stops():
    closed = []

    def items(name, source):
        try:
            yield from source
        finally:
            closed.append((name, threading.current_thread().name))

    def running():
        return {"first", "second"} & {thread.name for thread in threading.enumerate()}

    with Pipeline() as pipeline:
        source = pipeline.stage("first", items("first", itertools.count()))
        read = pipeline.stage("second", items("second", source))
        assert next(read) == 0
        assert running() == {"first", "second"}
    assert running() == set()
    # Generators are closed by the thread that ran them.
    assert sorted(closed) == [("first", "first"), ("second", "second")]


@pytest.fixture
def interruptible():
    """Ctrl-C raises an exception, even if the tests run in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_a_reader_that_waits():
    hang = threading.Event()

    def items():
        yield 0
        hang.wait(WAIT)

    main = threading.main_thread().ident
    with Pipeline() as pipeline:
        read = pipeline.stage("hang", items())
        next(read)
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(read)
        assert not hang.is_set()
        hang.set()


def test_the_watchdog_names_the_stage_that_stands_still(caplog):
    hang = threading.Event()

    def items():
        yield 0
        hang.wait(WAIT)
        yield 1

    with caplog.at_level(logging.WARNING), Pipeline() as pipeline:
        stuck = pipeline.stage("decode", items(), patience=0.1)
        read = pipeline.stage("network", (number for number in stuck), patience=0.1)
        assert next(read) == 0
        until(lambda: caplog.records)
        hang.set()
        assert list(read) == [1]
    # The stage after it waits too, but is not to blame.
    assert [record.message.split(" has")[0] for record in caplog.records] == ["The stage decode"]


def test_a_stage_that_stands_still_for_too_long_is_an_error():
    hang = threading.Event()

    def items():
        yield 0
        hang.wait(WAIT)

    with Pipeline() as pipeline:
        read = pipeline.stage("decode", items(), limit=0.2)
        assert next(read) == 0
        with pytest.raises(TimeoutError, match="The stage decode has worked on item 2 for"):
            next(read)
        hang.set()


def test_times_say_who_waited_for_whom():
    def slow():
        for number in range(5):
            time.sleep(0.05)
            yield number

    with Pipeline("encode") as pipeline:
        read = pipeline.stage("network", (n for n in pipeline.stage("decode", slow())))
        assert len(list(read)) == 5
        decode, network, encode = pipeline.times
    assert [decode.name, network.name, encode.name] == ["decode", "network", "encode"]
    assert (decode.items, network.items, encode.items) == (5, 5, 5)
    assert decode.working >= 0.2
    assert network.starved >= 0.15
    assert encode.starved >= 0.15
    assert network.working < 0.1
    assert decode.starved == 0


def test_a_stage_that_fills_its_queue_is_blocked():
    with Pipeline("encode") as pipeline:
        read = pipeline.stage("decode", iter(range(20)), capacity=1)
        for _ in read:
            time.sleep(0.01)
        decode, encode = pipeline.times
    assert decode.blocked > 0.05
    assert encode.working > 0.05


def test_a_stage_sees_the_settings_of_the_code_that_reads_it():
    setting = contextvars.ContextVar("setting", default="default")

    def items():
        yield setting.get()

    setting.set("changed")
    with Pipeline() as pipeline:
        assert list(pipeline.stage("look", items())) == ["changed"]
