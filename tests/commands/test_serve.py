# SPDX-License-Identifier: Apache-2.0
"""``flavr serve``: who needs a password, and what the runs are told."""

import io
import sys
from pathlib import Path

import pytest

from flavr_jax.commands import serve


@pytest.mark.parametrize("password", [None, "correct horse"])
def test_this_machine_alone_needs_no_password_but_may_have_one(monkeypatch, password):
    monkeypatch.delenv("FLAVR_PASSWORD", raising=False)
    if password:
        monkeypatch.setenv("FLAVR_PASSWORD", password)
    assert serve.password_for(local=True) == password


@pytest.mark.parametrize(
    ("password", "message"),
    [(None, "only with a password. Set FLAVR_PASSWORD"), ("short", "shorter than 8 characters")],
)
def test_other_machines_are_not_served_without_a_good_password(monkeypatch, password, message):
    monkeypatch.delenv("FLAVR_PASSWORD", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    if password:
        monkeypatch.setenv("FLAVR_PASSWORD", password)
    with pytest.raises(ValueError, match=message):
        serve.password_for(local=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "`port` is 70000"),
        ({"certificate": Path("a.pem")}, "belong together"),
        ({"memory_limit": "much"}, "`memory-limit` is 'much'"),
        ({"devices": "0"}, "`devices` is '0'"),
    ],
)
def test_impossible_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        serve.Options(**options)


def test_every_run_gets_the_options_of_the_server():
    options = serve.Options(precision="bf16", devices="all", memory_limit="6GB")
    assert serve.engine_options(options) == [
        "--precision", "bf16", "--devices", "all", "--memory-limit", "6GB",
    ]  # fmt: skip


def test_a_port_that_is_taken_is_an_error_with_a_remedy():
    pytest.importorskip("starlette", reason="needs the extra web")
    from flavr_jax.web import server

    with server._bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} cannot be served: .* Use --port"):
            server._bound("127.0.0.1", port)
