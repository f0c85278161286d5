# SPDX-License-Identifier: Apache-2.0
"""Run ``python -m flavr_jax``, the command ``flavr``."""

from flavr_jax.commands import main

if __name__ == "__main__":
    main()
