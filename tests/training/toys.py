# SPDX-License-Identifier: Apache-2.0
"""A task that compiles in a blink, for what does not depend on the network: loop, state, hosts."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np

from flavr_jax.config import ModelConfig
from flavr_jax.training.checkpoints import Checkpoints
from flavr_jax.training.inputs import Nothing
from flavr_jax.training.optimizers import OptimizerConfig, ScheduleConfig
from flavr_jax.training.recipe import Recipe
from flavr_jax.training.state import create


@dataclasses.dataclass(frozen=True)
class Line:
    """Find the line that points lie on; ballast makes the state large and does nothing."""

    ballast: int = 1

    def init(self, key):
        layer = {"slope": jax.random.normal(key, (3,)), "shift": jnp.zeros(())}
        return {"layer": layer, "ballast": jnp.zeros(self.ballast)}

    def loss(self, params, batch, key):
        x, y = batch
        layer = params["layer"]
        error = x.astype(layer["slope"].dtype) @ layer["slope"] + layer["shift"] - y
        loss = jnp.square(error.astype(jnp.float32)).mean() + 0.0 * params["ballast"].sum()
        return loss, {"error": jnp.abs(error).mean().astype(jnp.float32)}

    def preview(self, params, batch):
        return jnp.zeros((2, 2, 3))

    def scores(self, params):
        return {"slope": float(params["layer"]["slope"][0])}

    def release(self, path, params, provenance):
        path.mkdir(exist_ok=True)
        values = jax.tree.map(np.ndarray.tolist, {"layer": params["layer"]})
        (path / "params.json").write_text(json.dumps([values, provenance], default=str))


@dataclasses.dataclass(frozen=True)
class Points:
    """Points on a line, drawn in the step."""

    batch_size: int = 8
    resident: None = None

    def feed(self, parallel, *, validation=False):
        return Nothing()

    def batch(self, key, part, parts, fetched, resident):
        count = self.batch_size // parts
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, part * count + jnp.arange(count))
        x = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return x, x @ jnp.array([1.0, -2.0, 3.0]) + 0.5


class Numbers:
    """Points read one batch after the other; tells the steps and can be made to misbehave."""

    def __init__(self, parallel, batch_size, misbehave):
        self.parallel, self.batch_size, self.misbehave = parallel, batch_size, misbehave
        self.next = 0

    def __next__(self):
        rng = np.random.default_rng(self.next)
        x = rng.standard_normal((self.batch_size, 3)).astype(np.float32)
        y = x @ np.array([1.0, -2.0, 3.0], np.float32) + np.float32(0.5)
        y = self.misbehave(self.next, y) if self.misbehave else y
        self.next += 1
        share = slice(jax.process_index(), None, jax.process_count())
        return self.parallel.distribute((x[share], y[share]))

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


@dataclasses.dataclass(frozen=True)
class ReadPoints:
    """Points on a line that come from outside the step."""

    batch_size: int = 8
    resident: None = None
    misbehave: object = None

    def feed(self, parallel, *, validation=False):
        return Numbers(parallel, self.batch_size, self.misbehave)

    def batch(self, key, part, parts, fetched, resident):
        return fetched


def terminate_at(step):
    """Sends this process SIGTERM when it reads the batch of a step."""

    def misbehave(number, y):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return y

    return misbehave


def kill_while_saving(step, folder):
    """Ends this process as a power cut does, in the middle of the save before a step."""

    def misbehave(number, y):
        while number == step:
            if any("tmp" in path.name for path in (folder / "state").iterdir()):
                os.kill(os.getpid(), signal.SIGKILL)
        return y

    return misbehave


def nonsense_from(first, last):
    """Targets that are not numbers in a range of steps."""
    return lambda number, y: y * np.nan if first <= number < last else y


def saved_state(folder, task=None, of=None):
    """The newest state of a run, and the plain values beside it."""
    of = of or recipe()
    like = create((task or Line()).init(jax.random.key(of.seed)), of.optimizer, of.seed)
    with Checkpoints(folder / "state") as saved:
        return saved.restore(like)


def recipe(**changes):
    """A short run of the toy."""
    values = {
        "model": ModelConfig(width=4),
        "optimizer": OptimizerConfig(learning_rate=0.5, clip_norm=0.0, weight_decay=0.0),
        "schedule": ScheduleConfig(warmup_steps=2),
        "steps": 12,
        "compute": "float32",
        "reports": 2,
        "save_steps": 5,
        "log_steps": 3,
    }
    return Recipe(**{**values, **changes})
