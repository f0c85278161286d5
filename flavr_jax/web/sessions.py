# SPDX-License-Identifier: Apache-2.0
"""Visitors: the password, their sessions, and requests that other sites make in their name.

Every browser gets a cookie with a random number, and sees only the clips that were uploaded with
it. Where a password is set, the number counts only after the password was given.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COOKIE", "LOOPBACK", "Guard", "Sessions"]

COOKIE = "flavr_session"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_LIFETIME = 12 * 3600.0  # seconds
_MOST_SESSIONS = 10_000
_PENALTY = 1.0  # seconds that a wrong password takes …
_ATTEMPTS = 4  # … and how many are checked at a time
_OPEN = ("/login", "/page.css")  # paths that need no password
# The page consists of its own files.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class Sessions:
    """The visitors' random numbers."""

    def __init__(
        self, password: str | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask for ``password``, or for none; ``now`` is the clock, in seconds."""
        self._secret = None if password is None else _digest(password)
        self._now = now
        self._until: dict[str, float] = {}
        self._attempts = asyncio.Semaphore(_ATTEMPTS)

    @property
    def locked(self) -> bool:
        """True if visitors need the password."""
        return self._secret is not None

    def known(self, token: str | None) -> bool:
        """Return whether a cookie belongs to a session that has not ended."""
        return token is not None and self._until.get(token, 0) > self._now()

    def begin(self) -> str:
        """Begin a session, and return the content of its cookie."""
        now = self._now()
        if len(self._until) >= _MOST_SESSIONS:
            self._until = {token: end for token, end in self._until.items() if end > now}
            while len(self._until) >= _MOST_SESSIONS:
                # The oldest session: a dict keeps the order in which keys were added.
                self._until.pop(next(iter(self._until)))
        token = secrets.token_urlsafe(32)
        self._until[token] = now + _LIFETIME
        return token

    def end(self, token: str) -> None:
        """End a session."""
        self._until.pop(token, None)

    async def right(self, password: str) -> bool:
        """Return whether a password is the right one; a wrong one takes a second."""
        async with self._attempts:
            # Digests have one length, so that the time tells nothing about the password's.
            equal = self._secret is not None and hmac.compare_digest(
                _digest(password), self._secret
            )
            if not equal:
                await asyncio.sleep(_PENALTY)
            return equal


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()


class Guard:
    """Middleware that lets only visitors' own requests through, and adds security headers.

    The session's cookie content is in ``scope["state"]["session"]``.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, *, local: bool) -> None:
        """Guard ``app``; ``local`` if the server listens on this machine's own addresses only."""
        self._app, self._sessions, self._local = app, sessions, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # A proxy with TLS speaks http to this server, and says so in the header.
        secure = scope["scheme"] == "https" or headers.get("x-forwarded-proto") == "https"
        token, new = _cookie(headers), False
        refusal = self._refusal(scope, headers)
        if not refusal and not self._sessions.known(token):
            if not self._sessions.locked:
                token, new = self._sessions.begin(), True
            elif scope["path"] == "/":
                refusal = RedirectResponse("/login", 303)
            elif scope["path"] not in _OPEN:
                refusal = JSONResponse({"message": "Log in again."}, 401)
        scope.setdefault("state", {})["session"] = token or ""
        cookie = token if new else None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                _protect(MutableHeaders(scope=message), cookie, secure)
            await send(message)

        await (refusal or self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """Return the answer to a request that another site may have caused."""
        host = headers.get("host", "")
        # A site whose name leads to 127.0.0.1 would otherwise be this server for the browser.
        if self._local and _hostname(f"//{host}") not in LOOPBACK:
            return JSONResponse({"message": "Use http://127.0.0.1 or http://localhost."}, 421)
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        # Programs that are no browsers send neither of the two headers.
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return JSONResponse({"message": "The request comes from another site."}, 403)
        return None


def cookie_of(token: str, secure: bool) -> str:
    """Return the header that sets a session's cookie."""
    parts = [f"{COOKIE}={token}", "HttpOnly", "SameSite=Strict", "Path=/"]
    return "; ".join(parts + ["Secure"] * secure)


def _protect(headers: MutableHeaders, token: str | None, secure: bool) -> None:
    """Add security headers, and the cookie of a new session."""
    headers.setdefault("content-security-policy", _POLICY)
    headers.setdefault("cache-control", "no-store")
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "no-referrer"
    headers["cross-origin-resource-policy"] = "same-origin"
    headers["cross-origin-opener-policy"] = "same-origin"
    if token is not None:
        headers.append("set-cookie", cookie_of(token, secure))


def _cookie(headers: Headers) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
