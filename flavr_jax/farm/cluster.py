# SPDX-License-Identifier: Apache-2.0
"""Workers of a Ray cluster: started, given tasks, replaced when they are lost.

Workers are Ray actors, because a process keeps the GPU on which JAX started. Ray does not restart
a lost worker, because it would keep the worker's tasks until the machine returns. Instead, other
workers take the tasks, and a new worker is started where there is room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from flavr_jax.extras import install_command
from flavr_jax.farm import worker
from flavr_jax.farm.worker import Hand, Step

__all__ = ["Call", "Cluster", "Workers", "connected"]

Owner = TypeVar("Owner")

_QUEUED = 2  # tasks of a worker, so that it need not wait for the head
_VAIN = 8  # more failed starts of workers in a row end the farm
_LOOKED = 10.0  # seconds between two looks at the size of the cluster


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[tuple[Any, str | None]]:
    """Connect to a Ray cluster, or start one here; yields Ray and the link of its dashboard.

    Args:
        address: address of the cluster; ``local`` starts one, None takes the one that Ray finds.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        OSError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's future behaviour; it warns while this is unset.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        command = install_command("farm")
        raise ModuleNotFoundError(f"`flavr farm` needs Ray. Run {command}.", name="ray") from error
    began = not ray.is_initialized()
    link = None
    if began:
        try:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            link = context.dashboard_url and f"http://{context.dashboard_url}"
        except ConnectionError as error:
            raise OSError(
                f"no Ray cluster answers at {address or 'the address that Ray found'}. Start one "
                "with `ray start --head`, or use --address local for this machine alone."
            ) from error
    try:
        yield ray, link
    finally:
        if began:
            ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers to use.

    Attributes:
        cpus: cores of a worker.
        gpus: GPUs of a worker, 0 or 1.
        wanted: number of workers; None for as many as fit into the cluster.
    """

    cpus: int
    gpus: int
    wanted: int | None = None

    def __str__(self) -> str:
        cores = f"{self.cpus} core" + "s" * (self.cpus > 1)
        return f"1 GPU and {cores} each" if self.gpus else f"{cores} each"

    @classmethod
    def of(cls, ray: Any, cpus: int | None = None, wanted: int | None = None) -> Workers:
        """Choose the workers for a cluster: by default, each has 1 core, or a GPU and 4 cores.

        Raises:
            ValueError: no machine of the cluster has as many cores as a worker needs.
        """
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
        cpus = cpus or (4 if gpus else 1)
        machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        if wanted is None and cpus > max(machines):
            raise ValueError(
                f"`cpus` is {cpus}, but no machine of the cluster gives more than "
                f"{max(machines):g}; use fewer."
            )
        return cls(cpus, gpus, wanted)

    def count(self, ray: Any) -> int:
        """Return the number of workers for the cluster as it is now, at least 1."""
        if self.wanted is not None:
            return self.wanted
        here = ray.cluster_resources()
        many = here.get("GPU", 0) if self.gpus else here.get("CPU", 0) // self.cpus
        return max(1, int(many))


@dataclasses.dataclass(eq=False)
class Call(Generic[Owner]):
    """A task.

    Attributes:
        owner: recipient of the result.
        step: name of the step to run.
        arguments: arguments of the step.
        lost: number of workers that were lost while they had the task.
    """

    owner: Owner
    step: Step
    arguments: tuple[Any, ...]
    lost: int = 0


class Cluster(Generic[Owner]):
    """Hands tasks to workers, and returns their results.

    Attributes:
        lost: number of workers that were lost.
    """

    def __init__(self, ray: Any, workers: Workers, retries: int = 5, hand: type = Hand) -> None:
        """Start workers of class ``hand``; a task fails after more than ``retries`` losses."""
        self.lost = 0
        self._ray, self._workers, self._retries = ray, workers, retries
        # By default, Ray never restarts a lost actor, as is right: see the module's docstring.
        self._hand = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(hand)
        self._beside = {
            step: ray.remote(num_cpus=1, max_retries=retries)(worker.STEPS[step])
            for step in worker.WITHOUT_NETWORK
        }
        self._starting: dict[Any, Any] = {}
        self._load: dict[Any, int] = {}
        # Workers by their number of tasks. Entries may be outdated; `_least_busy` drops those.
        self._by_load: list[deque[Any]] = [deque() for _ in range(_QUEUED)]
        self._flight: dict[Any, tuple[Call[Owner], Any]] = {}
        self._looked, self._vain = -_LOOKED, 0
        self._has_spare_cores = False
        self.count = workers.count(ray)
        self.hire()

    @property
    def busy(self) -> int:
        """Number of tasks that run, or wait at a worker."""
        return len(self._flight)

    def hire(self) -> None:
        """Start missing workers; the cluster may have grown or lost machines."""
        now = time.monotonic()
        if now - self._looked >= _LOOKED:
            self._looked, self.count = now, self._workers.count(self._ray)
            cores = self._ray.cluster_resources().get("CPU", 0)
            spare = cores - self.count * self._workers.cpus >= 1
            self._has_spare_cores = bool(self._workers.gpus) and spare
        for _ in range(self.count - len(self._load) - len(self._starting)):
            hand = self._hand.remote()
            self._starting[hand.ready.remote()] = hand

    @property
    def has_room(self) -> bool:
        """True if a worker could take another task."""
        return self._least_busy() is not None

    def _least_busy(self) -> Any:
        """Return the worker with the fewest tasks; None if all have their full number."""
        for load, hands in enumerate(self._by_load):
            while hands and self._load.get(hands[0]) != load:
                hands.popleft()
            if hands:
                return hands[0]
        return None

    def _set_load(self, hand: Any, load: int) -> None:
        self._load[hand] = load
        if load < _QUEUED:
            self._by_load[load].append(hand)

    def start(self, call: Call[Owner]) -> None:
        """Hand a task to the worker with the fewest tasks; see ``has_room``."""
        if call.step in self._beside and self._has_spare_cores:
            reference, hand = self._beside[call.step].remote(*call.arguments), None
        else:
            hand = self._least_busy()
            self._set_load(hand, self._load[hand] + 1)
            reference = hand.run.remote(call.step, *call.arguments)
        self._flight[reference] = call, hand

    def ended(self, patience: float = 0.5) -> Iterator[tuple[Call[Owner], Any]]:
        """Yield the tasks that have ended, with their results, or with the exceptions they raised.

        If the result is None, the worker was lost, and the caller has to start the task again.

        Args:
            patience: longest wait for a task, in seconds.
        """
        references = [*self._flight, *self._starting]
        ended, rest = self._ray.wait(references, num_returns=1, timeout=patience)
        if ended and rest:
            # Each wait looks at all tasks, so take everything that has ended by now.
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0)
            ended += more
        for reference in ended:
            if reference in self._starting:
                self._started(self._starting.pop(reference), reference)
            elif reference in self._flight:  # the caller may have cancelled it since the wait
                call, hand = self._flight.pop(reference)
                yield call, self._result(call, hand, reference)

    def _started(self, hand: Any, reference: Any) -> None:
        """Record that a worker can take tasks, or could not start."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._vain += 1
            if self._vain > _VAIN:
                reason = str(error).strip().splitlines()[-1]
                raise OSError(
                    f"No worker can start ({reason}). Install the same flavr_jax on all machines."
                ) from error
        else:
            self._vain = 0
            self._set_load(hand, 0)

    def _result(self, call: Call[Owner], hand: Any, reference: Any) -> Any:
        """Return the result of a task: a value, an exception, or None if its worker was lost."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return error.cause or error
        except self._ray.exceptions.RayError as error:
            self._lose(hand)
            call.lost += 1
            if call.lost > self._retries:
                return OSError(
                    f"{call.lost} workers were lost during one task ({type(error).__name__}). Give "
                    "workers more memory, or try a smaller --memory-limit."
                )
            return None
        finally:
            if hand in self._load:
                self._set_load(hand, self._load[hand] - 1)

    def cancel(self, owner: Owner) -> None:
        """Forget the tasks of an owner; the results of those that still run are dropped."""
        for reference, (call, hand) in list(self._flight.items()):
            if call.owner is owner:
                del self._flight[reference]
                if hand in self._load:
                    self._set_load(hand, self._load[hand] - 1)

    def close(self) -> None:
        """End the workers."""
        for hand in [*self._load, *self._starting.values()]:
            self._ray.kill(hand)

    def _lose(self, hand: Any) -> None:
        """Remove a lost worker."""
        if hand in self._load:
            del self._load[hand]
            self.lost += 1
            self._looked = -_LOOKED  # its machine may be lost with it
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(hand)
