# SPDX-License-Identifier: Apache-2.0
"""The server's addresses: the page, uploads, the visitor's clips and their files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from flavr_jax.extras import install_command
from flavr_jax.video.files import encoders
from flavr_jax.web import limits as limiting
from flavr_jax.web.choices import CODECS, FACTORS, Choices
from flavr_jax.web.jobs import Clip, Queue
from flavr_jax.web.limits import Refused

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The web page needs further packages: {install_command('web')}"
    ) from error

from flavr_jax.web.sessions import Guard, Sessions, cookie_of

__all__ = ["create"]

PAGE = Path(__file__).parent / "page"

_TYPES = {
    ".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
    ".mkv": "video/x-matroska", ".html": "text/html",
}  # fmt: skip
# The report has pictures and styles of its own, and no script.
_REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)
_LONGEST_FORM = 4096  # bytes
_PATIENCE = 60.0  # seconds until an upload that has stalled is given up


def create(queue: Queue, sessions: Sessions, *, sandbox: bool, local: bool) -> Starlette:
    """Return the application.

    Args:
        queue: of clips; the application runs it.
        sessions: of visitors.
        sandbox: whether uploads are decoded in a child process with few rights.
        local: whether the server listens on this machine's own addresses only.
    """
    site = _Site(queue, sessions, sandbox)
    pages = [
        Route(f"/{name}", _page(name)) for name in ("page.css", "page.js", "viewer.js", "icon.svg")
    ]
    return Starlette(
        routes=[
            Route("/", _page("index.html")),
            *pages,
            Route("/login", _page("login.html")),
            Route("/login", site.log_in, methods=["POST"]),
            Route("/logout", site.log_out, methods=["POST"]),
            Route("/api/settings", site.settings),
            Route("/api/clips", site.clips),
            Route("/api/clips", site.upload, methods=["POST"]),
            Route("/api/clips/{number}", site.remove, methods=["DELETE"]),
            Route("/api/clips/{number}/cancel", site.cancel, methods=["POST"]),
            Route("/api/clips/{number}/{what}", site.file),
        ],
        middleware=[Middleware(Guard, sessions=sessions, local=local)],
        exception_handlers={Refused: _refused},
        lifespan=site.lifespan,
    )


def _page(name: str) -> Any:
    async def page(request: Request) -> Response:
        return FileResponse(PAGE / name)

    return page


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"message": str(error)}, error.status)


class _Site:
    """Answers to requests."""

    def __init__(self, queue: Queue, sessions: Sessions, sandbox: bool) -> None:
        self._queue, self._sessions, self._sandbox = queue, sessions, sandbox

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the queue as long as the server."""
        running = asyncio.create_task(self._queue.run())
        yield
        running.cancel()
        await asyncio.wait([running])

    async def log_in(self, request: Request) -> Response:
        """Compare the password, and begin a session."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST_FORM:
                raise Refused("The form is too long.", 413)
        given = parse_qs(body.decode(errors="replace")).get("password", [""])[0]
        if not await self._sessions.right(given):
            return RedirectResponse("/login#wrong", 303)
        answer = RedirectResponse("/", 303)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        answer.headers.append("set-cookie", cookie_of(self._sessions.begin(), secure))
        return answer

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        self._sessions.end(request.state.session)
        return RedirectResponse("/login", 303)

    async def settings(self, request: Request) -> Response:
        """Tell the page what can be chosen, and the limits."""
        # Every encoder is opened to see whether it works.
        works = await run_in_threadpool(_codecs)
        limits = self._queue.limits
        return JSONResponse(
            {
                "factors": FACTORS,
                "codecs": works,
                "upload_bytes": limits.upload_bytes,
                "seconds": limits.seconds,
                "megapixels": limits.megapixels,
                "keep_hours": limits.keep_hours,
                "sound": not self._sandbox,
                "password": self._sessions.locked,
            }
        )

    async def clips(self, request: Request) -> Response:
        """Tell the state of the visitor's clips."""
        mine = [c for c in self._queue.clips.values() if c.owner == request.state.session]
        return JSONResponse({"clips": [self._state(clip) for clip in mine]})

    async def upload(self, request: Request) -> Response:
        """Take a file, whose bytes are the body, and put it into the queue."""
        limits = self._queue.limits
        choices = Choices.parse(request.query_params)
        choices.motion.timing  # noqa: B018 - raises an error for an impossible rate
        # A first look, before anything is stored; what comes is counted in `_receive`.
        length = request.headers.get("content-length", "")
        limits.check_size(int(length) if length.isdecimal() else 0)
        name = request.query_params.get("name", "clip")
        clip = self._queue.add(request.state.session, name, choices)
        try:
            await _receive(request, clip.upload, limits)
            clip.warnings = await run_in_threadpool(
                limiting.check_video,
                clip.upload,
                clip.name,
                limits,
                sandbox=self._sandbox,
                codec=choices.codec,
            )
        except ClientDisconnect:
            await self._queue.remove(clip)
            return Response(status_code=400)
        # Also when the request is cancelled: no file may be left.
        except BaseException as error:
            await self._queue.remove(clip)
            if isinstance(error, OSError):
                raise Refused(f"The upload cannot be stored: {error.strerror}.", 507) from error
            raise
        self._queue.start(clip)
        return JSONResponse(self._state(clip), 201)

    async def cancel(self, request: Request) -> Response:
        """End a clip."""
        clip = self._clip(request)
        await self._queue.cancel(clip)
        return JSONResponse(self._state(clip))

    async def remove(self, request: Request) -> Response:
        """Delete a clip."""
        await self._queue.remove(self._clip(request))
        return Response(status_code=204)

    async def file(self, request: Request) -> Response:
        """Send the result, the comparison or the report."""
        clip, what = self._clip(request), request.path_params["what"]
        path = clip.files.get(what)
        if clip.state != "done" or path is None or not path.is_file():
            raise Refused("There is no such file any more.", 404)
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        headers = {"cache-control": "private, max-age=3600"}
        if what == "report":
            headers["content-security-policy"] = _REPORT_POLICY
        disposition = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(
            path,
            media_type=kind,
            filename=path.name,
            content_disposition_type=disposition,
            headers=headers,
        )

    def _clip(self, request: Request) -> Clip:
        clip = self._queue.clips.get(request.path_params["number"])
        if clip is None or clip.owner != request.state.session or clip.state == "uploading":
            raise Refused("There is no such clip any more.", 404)
        return clip

    def _state(self, clip: Clip) -> dict[str, Any]:
        """Return what the page shows of a clip."""
        return {
            "id": clip.id,
            "name": clip.name,
            "state": clip.state,
            "step": clip.step,
            "ahead": self._queue.ahead(clip),
            "progress": clip.progress,
            "message": clip.message,
            "warnings": clip.warnings,
            "facts": clip.facts,
            "weakest": clip.weakest,
            "stretch": clip.choices.stretch,
            "files": {
                what: {"name": path.name, "bytes": path.stat().st_size}
                for what, path in clip.files.items()
                if clip.state == "done" and path.is_file()
            },
            "seconds_kept": self._queue.seconds_kept(clip),
        }


async def _receive(request: Request, path: Path, limits: limiting.Limits) -> None:
    """Write a request's body into a file.

    Raises:
        Refused: it is too large, or begins as no video does.
        ClientDisconnect: the visitor went away.
    """
    size, head, checked = 0, b"", False
    with path.open("xb") as file:
        parts = aiter(request.stream())
        while (part := await _next(parts)) is not None:
            size += len(part)
            limits.check_size(size)
            if not checked:
                head += part[: limiting.HEAD]
                if len(head) >= limiting.HEAD:
                    limiting.check_kind(head)
                    checked = True
            # A slow disk must not stop the server.
            await run_in_threadpool(file.write, part)
    if not checked:
        limiting.check_kind(head)


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    """Return the next part of an upload, None at its end.

    Raises:
        Refused: none came for a minute.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            return await anext(parts, None)
    except TimeoutError as error:
        raise Refused("Nothing of the file came for a minute; send it again.", 408) from error


def _codecs() -> dict[str, str]:
    """Return the codecs that can be written on this machine, with their descriptions."""
    works = {kind.codec for name, kind in encoders.ENCODERS.items() if not encoders.failure(name)}
    return {name: words for name, (words, _) in CODECS.items() if name in works}
