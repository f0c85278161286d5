# SPDX-License-Identifier: Apache-2.0
"""Run ``flavr label-efficiency``, whose code is in flavr_jax/commands."""

from flavr_jax.commands import run

if __name__ == "__main__":
    run("label-efficiency")
