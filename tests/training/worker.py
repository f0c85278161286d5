# SPDX-License-Identifier: Apache-2.0
"""What the tests run in processes of their own: ``worker.py TASK FOLDER [NUMBER PORT]``."""

import sys
from pathlib import Path

import jax

from flavr_jax.training import loop, parallel
from flavr_jax.training.loop import Leg
from flavr_jax.training.parallel import Hosts, Parallel
from tests.training import toys

loop.run_log.plot = lambda folder: None


def devices(folder):
    """The same run on 1 and on 4 devices, by pmap and by shard_map."""
    assert jax.device_count() == 4
    one = Parallel(devices=(jax.devices()[0],))
    for name, mapping in {"one": one, "pmap": Parallel(), "twin": Parallel("shard_map")}.items():
        for kind in (toys.Points, toys.ReadPoints):
            output = folder / f"{name}-{kind.__name__}"
            loop.train(toys.recipe(), toys.Line(), kind(), output, mapping=mapping)


def hosts(folder, number, port):
    """A run on two hosts, of which one is asked to stop; then the rest of it; then the twin."""
    parallel.initialize(Hosts(f"127.0.0.1:{port}", 2, number))
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    asked = toys.ReadPoints(misbehave=toys.terminate_at(4) if number == 1 else None)
    recipe = toys.recipe()
    assert not loop.train(recipe, toys.Line(), asked, folder / "pmap")
    inputs = toys.ReadPoints()
    assert loop.train(recipe, toys.Line(), inputs, folder / "pmap", Leg(resume=True))
    assert loop.train(recipe, toys.Line(), inputs, folder / "twin", mapping=Parallel("shard_map"))


def killed(folder):
    """A run that does not survive the save of step 8."""
    recipe = toys.recipe(save_steps=2)
    inputs = toys.ReadPoints(misbehave=toys.kill_while_saving(8, folder))
    loop.train(recipe, toys.Line(ballast=3_000_000), inputs, folder)


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    {"devices": devices, "hosts": hosts, "killed": killed}[task](Path(folder), *map(int, rest))
