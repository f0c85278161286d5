# SPDX-License-Identifier: Apache-2.0
"""Serve a web page that makes videos smoother or slower: ``flavr serve``."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from flavr_jax.config import Precision
from flavr_jax.inference.options import Resources
from flavr_jax.web.limits import Limits

PASSWORD = "FLAVR_PASSWORD"
_SHORTEST = 8


@dataclass(frozen=True)
class Options:
    """Serve a web page that makes videos smoother or slower, for this machine or for others.

    Clips are run one after the other, decoded in a sandbox, and deleted after an hour and when the
    server ends.

    For example:

        serve                                    http://127.0.0.1:8000, for this machine alone
        FLAVR_PASSWORD=... serve --host 0.0.0.0  for others, who are asked for the password
    """

    host: str = "127.0.0.1"
    """Address to listen on. Addresses other than this machine's own need a password, from the
    environment variable FLAVR_PASSWORD or asked for in the terminal."""
    port: int = 8000
    """Port to listen on; 0 for any free one."""
    certificate: Path | None = None
    """File with a TLS certificate, for https; passwords and videos are otherwise readable on the
    network."""
    key: Path | None = None
    """File with the certificate's private key."""
    checkpoint: Path | None = None
    """Directory of the network; by default the bundled one."""
    precision: Precision = "auto"
    """Number format that the network computes in."""
    devices: str = "1"
    """Number of GPUs that compute, or all."""
    memory_limit: str | None = None
    """Largest amount of memory to use on each device, such as 6GB."""
    trust_files: bool = False
    """Decode without a sandbox, and keep sound; for your own files."""
    limits: Annotated[Limits, tyro.conf.OmitArgPrefixes] = field(default_factory=Limits)
    """Limits for visitors."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`port` is {self.port}; it goes from 0 to 65535.")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` belong together; give both or none.")
        Resources(self.devices, self.memory_limit)  # raises an error for impossible values


def main(options: Options) -> None:
    """Serve until interrupted."""
    if sys.platform == "win32":
        raise ValueError("`flavr serve` needs Linux or macOS; on Windows, use WSL 2.")
    from flavr_jax.web import app, server
    from flavr_jax.web.jobs import Queue, engine
    from flavr_jax.web.sessions import LOOPBACK, Sessions

    local = options.host in LOOPBACK
    sessions = Sessions(password_for(local=local))
    command = engine(options.checkpoint, engine_options(options), sandbox=not options.trust_files)
    with tempfile.TemporaryDirectory(prefix="flavr-serve-", ignore_cleanup_errors=True) as folder:
        queue = Queue(command, Path(folder), options.limits)
        site = app.create(queue, sessions, sandbox=not options.trust_files, local=local)
        server.serve(site, options.host, options.port, options.certificate, options.key)


def engine_options(options: Options) -> list[str]:
    """Return the options that every run gets."""
    words = ["--precision", options.precision, "--devices", options.devices]
    return words + (
        [] if options.memory_limit is None else ["--memory-limit", options.memory_limit]
    )


def password_for(*, local: bool) -> str | None:
    """Return the password that visitors need; None if only this machine is served.

    Raises:
        ValueError: there is none, or it is too short.
    """
    password = os.environ.get(PASSWORD)
    if not password and local:
        return None
    if not password and sys.stdin.isatty():
        password = getpass.getpass("Password for visitors: ")
    if not password:
        raise ValueError(
            "Other machines are served only with a password. Set FLAVR_PASSWORD, or use "
            "--host 127.0.0.1."
        )
    if len(password) < _SHORTEST:
        raise ValueError(f"The password is shorter than {_SHORTEST} characters; use a longer one.")
    return password
