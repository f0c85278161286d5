# SPDX-License-Identifier: Apache-2.0
"""Workers and their tasks, on a Ray in which the test decides what ends and how."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from flavr_jax.farm import cluster
from flavr_jax.farm.cluster import Call, Cluster, Workers


class RayError(Exception):
    """The base of Ray's errors."""


class RayTaskError(RayError):
    """A task raised its ``cause``."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Actor:
    """A worker; its methods are started by ``remote``."""

    def __init__(self, ray):
        self.ready = SimpleNamespace(remote=lambda: next(ray.numbers))
        self.run = SimpleNamespace(remote=lambda step, *given: ray.task(self, given))


class Ray:
    """Remote calls return numbers; :meth:`end` makes one end with a result or an exception."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, *, gpus=0, cores=(2,)):
        self.gpus, self.cores = gpus, list(cores)
        self.numbers, self.results = itertools.count(), {}
        self.hands, self.tasks, self.killed = [], {}, []

    def cluster_resources(self):
        return {"CPU": sum(self.cores), **({"GPU": self.gpus} if self.gpus else {})}

    def nodes(self):
        alive = [{"Alive": True, "Resources": {"CPU": cores}} for cores in self.cores]
        return [*alive, {"Alive": False, "Resources": {"CPU": 99}}]

    def remote(self, **options):
        return lambda made: SimpleNamespace(remote=lambda *given: self._begin(made, given))

    def _begin(self, made, given):
        if not isinstance(made, type):
            return self.task(None, given)
        self.hands.append(Actor(self))
        return self.hands[-1]

    def task(self, hand, given):
        number = next(self.numbers)
        self.tasks[given] = number, hand
        return number

    def end(self, number, result=None):
        self.results[number] = result

    def wait(self, references, num_returns, timeout):
        ended = [number for number in references if number in self.results][:num_returns]
        return ended, [number for number in references if number not in ended]

    def get(self, number):
        if isinstance(self.results[number], Exception):
            raise self.results[number]
        return self.results[number]

    def kill(self, hand):
        self.killed.append(hand)


def begun(ray, **options):
    """A cluster whose workers have started."""
    made = Cluster(ray, Workers.of(ray), **options)
    for number in list(made._starting):
        ray.end(number)
    assert not list(made.ended())
    return made


def test_each_worker_gets_two_tasks_and_the_least_busy_is_first():
    ray = Ray()
    made = begun(ray)
    for name in "abcd":
        assert made.has_room
        made.start(Call("clip", "render", (name,)))
    assert not made.has_room
    first, second = ray.hands
    assert [ray.tasks[name,][1] for name in "abcd"] == [first, second, first, second]
    ray.end(ray.tasks["d",][0], 24)
    assert [(call.arguments, result) for call, result in made.ended()] == [(("d",), 24)]
    made.start(Call("clip", "render", ("e",)))
    assert ray.tasks["e",][1] is second
    assert made.busy == 4
    made.close()
    assert ray.killed == ray.hands


def test_a_lost_worker_counts_once_and_another_takes_its_place():
    ray = Ray(cores=(1,))
    made = begun(ray, retries=1)
    calls = [Call("clip", "render", (name,)) for name in "ab"]
    for call in calls:
        made.start(call)
        ray.end(ray.tasks[call.arguments][0], RayError("the machine is gone"))
    assert [result for _, result in made.ended()] == [None, None]
    assert (made.lost, made.has_room, ray.killed) == (1, False, ray.hands)
    made.hire()
    assert len(ray.hands) == 2
    ray.end(next(iter(made._starting)))
    assert not list(made.ended())
    made.start(calls[0])
    ray.end(ray.tasks["a",][0], RayError("again"))
    ((_, error),) = made.ended()
    assert "2 workers were lost during one task" in str(error)


def test_an_error_of_a_task_is_its_result_and_costs_no_worker():
    ray = Ray()
    made = begun(ray)
    made.start(Call("clip", "render", ("a",)))
    ray.end(ray.tasks["a",][0], RayTaskError(ValueError("`factor` is 3; use 4.")))
    ((_, error),) = made.ended()
    assert (type(error), str(error)) == (ValueError, "`factor` is 3; use 4.")
    assert (made.lost, made.busy, made.has_room) == (0, 0, True)


def test_a_clip_given_up_while_its_tasks_end_is_forgotten():
    ray = Ray()
    made = begun(ray)
    for owner, name in (("bad", "a"), ("bad", "b"), ("good", "c"), ("bad", "d")):
        made.start(Call(owner, "render", (name,)))
    for name in "abc":
        ray.end(ray.tasks[name,][0], name)
    found = []
    for call, result in made.ended():  # all three at once
        found.append(result)
        if call.owner == "bad":
            made.cancel("bad")
    assert found == ["a", "c"]
    assert made.busy == 0
    for name in "efgh":  # the workers have room for as many tasks as before
        made.start(Call("good", "render", (name,)))
    assert not made.has_room


def test_workers_that_cannot_start_end_the_farm_after_several_attempts():
    ray = Ray(cores=(1,))
    made = Cluster(ray, Workers.of(ray))
    for _ in range(cluster._VAIN):
        ray.end(next(iter(made._starting)), RayError("trace\nNo module named 'flavr_jax'\n"))
        assert not list(made.ended())
        made.hire()
    ray.end(next(iter(made._starting)), RayError("trace\nNo module named 'flavr_jax'\n"))
    with pytest.raises(OSError, match=r"start \(No module named 'flavr_jax'\)\. Install the same"):
        list(made.ended())


@pytest.mark.parametrize(("cores", "beside"), [(4, False), (5, True)])
def test_beside_a_gpu_a_spare_core_takes_what_needs_no_network(cores, beside):
    ray = Ray(gpus=1, cores=(cores,))
    made = begun(ray)
    assert len(ray.hands) == 1
    made.start(Call("clip", "scan", ("a",)))
    made.start(Call("clip", "render", ("b",)))
    assert (ray.tasks["a",][1] is None) == beside
    assert ray.tasks["b",][1] is ray.hands[0]
    # A machine lost with the core costs no worker, and the task is started again.
    ray.end(ray.tasks["a",][0], RayError("lost"))
    assert [result for _, result in made.ended()] == [None]
    assert made.lost == (0 if beside else 1)


def test_workers_are_counted_by_gpus_or_else_by_cores():
    assert Workers.of(Ray(gpus=3, cores=(8, 4))) == Workers(cpus=4, gpus=1)
    assert Workers.of(Ray(gpus=3, cores=(8, 4))).count(Ray(gpus=3)) == 3
    assert Workers.of(Ray(cores=(2, 3)), cpus=2).count(Ray(cores=(2, 3))) == 2
    assert Workers(4, 0).count(Ray(cores=(1,))) == 1  # Ray may add machines
    assert str(Workers(1, 0)) == "1 core each"
    assert str(Workers(4, 1)) == "1 GPU and 4 cores each"
    with pytest.raises(ValueError, match="gives more than 2; use fewer"):
        Workers.of(Ray(), cpus=3)  # the machine of 99 cores is gone
