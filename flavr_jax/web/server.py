# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: uvicorn, and the line that says where it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

__all__ = ["serve"]

_PATIENCE = 3  # seconds that open connections get at the end


def serve(
    app: ASGIApp, host: str, port: int, certificate: Path | None = None, key: Path | None = None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: the application.
        host: address to listen on.
        port: likewise; 0 for any free one.
        certificate: for https.
        key: likewise.

    Raises:
        OSError: the address is taken or is none of this machine.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    config.load()
    # Bound here, because the line below tells the port that 0 stands for.
    with _bound(host, port) as listening:
        scheme = "http" if certificate is None else "https"
        name = f"[{host}]" if ":" in host else host
        address = f"{scheme}://{name}:{listening.getsockname()[1]}"
        print(f"flavr_jax serves {address} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run([listening])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OSError(f"{host}:{port} cannot be served: {error.strerror}. Use --port.") from error
