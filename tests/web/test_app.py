# SPDX-License-Identifier: Apache-2.0
"""The server's answers: to visitors, to files that are too much, and to other sites."""

import asyncio
import time

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs the extra test")

from starlette.testclient import TestClient

from flavr_jax.web import app
from flavr_jax.web.jobs import Queue
from flavr_jax.web.limits import Limits, Refused
from flavr_jax.web.sessions import COOKIE, Sessions

DEFAULTS = Limits()
HERE = "http://127.0.0.1:8000"


@pytest.fixture
def serve(engine, tmp_path):
    """Starts a server, and returns a visitor, whose ``app`` further visitors can use."""
    opened = []

    def serve(limits=DEFAULTS, *, password=None, local=True, sandbox=False, base=HERE):
        folder = tmp_path / "clips"
        folder.mkdir()
        queue = Queue(engine, folder, limits)
        site = app.create(queue, Sessions(password), sandbox=sandbox, local=local)
        visitor = TestClient(site, base_url=base, follow_redirects=False)
        opened.append(visitor.__enter__())
        visitor.get("/")
        return visitor

    yield serve
    for visitor in opened:
        visitor.__exit__(None, None, None)


@pytest.fixture(scope="module")
def video(tmp_path_factory, write_clip):
    return write_clip(tmp_path_factory.mktemp("video") / "a.mp4").read_bytes()


def finished(visitor, clip):
    for _ in range(400):
        (state,) = visitor.get("/api/clips").json()["clips"]
        if state["state"] not in ("waiting", "running"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def refusal(answer):
    return answer.status_code, answer.json()["message"]


@pytest.mark.parametrize("sandbox", [False, True])
def test_a_clip_is_taken_made_sent_and_removed(serve, video, tmp_path, sandbox):
    visitor = serve(sandbox=sandbox)
    answer = visitor.post("/api/clips?name=My clip.mp4&factor=4", content=video)
    assert answer.status_code == 201
    clip = finished(visitor, answer.json())
    assert (clip["state"], clip["name"]) == ("done", "My clip.mp4")
    assert clip["files"]["result"] == {"name": "My_clip_4x.mp4", "bytes": 256}
    path = f"/api/clips/{clip['id']}/result"
    result = visitor.get(path, params={"download": ""})
    assert result.content == bytes(range(256))
    assert result.headers["content-disposition"] == 'attachment; filename="My_clip_4x.mp4"'
    part = visitor.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-type"] == "video/mp4"
    assert visitor.get(f"/api/clips/{clip['id']}/upload").status_code == 404
    assert visitor.delete(f"/api/clips/{clip['id']}").status_code == 204
    assert visitor.get("/api/clips").json() == {"clips": []}
    # Files of the stand-in are all that is left.
    assert {each.name for each in (tmp_path / "clips").iterdir()} == {"pid", "secret"}


def test_a_report_can_run_no_script_and_the_page_only_its_own(serve, video):
    visitor = serve()
    clip = finished(visitor, visitor.post("/api/clips?report=1", content=video).json())
    policy = visitor.get(f"/api/clips/{clip['id']}/report").headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none';")
    assert "script-src" not in policy
    page = visitor.get("/")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "//" not in page.text.replace("<!doctype html>", ""), "nothing comes from elsewhere"


@pytest.mark.parametrize(
    ("limits", "content", "status", "message"),
    [
        (Limits(upload_mb=0.0005), "video", 413, "The file is larger than 0.0005 MB"),
        (Limits(upload_mb=0.0005), "parts", 413, "The file is larger than 0.0005 MB"),
        (Limits(seconds=0.5), "video", 422, "a.mp4 is longer than 0.5 s"),
        (Limits(megapixels=0.0005), "video", 422, "a.mp4 has frames of 32×24 pixels"),
        (Limits(), b"#EXTM3U\n/etc/passwd\n", 415, "The file is not a video of a known kind"),
        (Limits(), b"\0\0\0\x18ftypisom" + bytes(500), 422, "a.mp4 is not a video"),
        (Limits(), b"", 415, "The file is not a video of a known kind"),
    ],
)
def test_too_much_and_other_files_are_refused_and_deleted(
    serve, video, tmp_path, limits, content, status, message
):
    visitor = serve(limits)
    content = {"video": video, "parts": iter([video[:300], video[300:]])}.get(content, content)
    found = refusal(visitor.post("/api/clips?name=a.mp4", content=content))
    assert found[0] == status
    assert found[1].startswith(message)
    assert str(tmp_path) not in found[1]
    assert not list((tmp_path / "clips").iterdir())
    assert visitor.get("/api/clips").json() == {"clips": []}


def test_impossible_choices_are_refused_before_the_upload(serve):
    status, message = refusal(serve().post("/api/clips?mode=rate&fps=1e9", content=b"x"))
    assert (status, message.split(";")[0]) == (422, "The frame rate is '1e9'")


def test_visitors_see_their_own_clips_only(serve, video):
    owner = serve()
    clip = owner.post("/api/clips", content=video).json()
    other = TestClient(owner.app, base_url=HERE)
    other.get("/")
    assert other.cookies[COOKIE] != owner.cookies[COOKIE]
    assert other.get("/api/clips").json() == {"clips": []}
    for method, path in (("GET", "/result"), ("POST", "/cancel"), ("DELETE", "")):
        assert other.request(method, f"/api/clips/{clip['id']}{path}").status_code == 404
    assert finished(owner, clip)["state"] == "done"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_cannot_act_for_a_visitor(serve, video, headers):
    visitor = serve()
    answer = visitor.post("/api/clips", content=video, headers=headers)
    assert refusal(answer) == (403, "The request comes from another site.")
    allowed = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert visitor.post("/api/clips", content=video, headers=allowed).status_code == 201


def test_a_name_that_leads_to_this_machine_is_refused(serve):
    visitor = serve()
    assert visitor.get("/", headers={"host": "evil.example:8000"}).status_code == 421
    for name in ("localhost:8000", "[::1]:8000"):
        assert visitor.get("/", headers={"host": name}).status_code == 200


def test_other_machines_need_the_password(serve, monkeypatch):
    monkeypatch.setattr("flavr_jax.web.sessions._PENALTY", 0.0)
    visitor = serve(password="correct horse", local=False, base="https://videos.example")
    assert not visitor.cookies
    assert visitor.get("/").headers["location"] == "/login"
    for path in ("/api/clips", "/api/settings", "/page.js"):
        assert visitor.get(path).status_code == 401
    assert visitor.post("/api/clips", content=b"x").status_code == 401
    assert 'type="password"' in visitor.get("/login").text
    wrong = visitor.post("/login", data={"password": "wrong horse"})
    assert (wrong.headers["location"], "set-cookie" in wrong.headers) == ("/login#wrong", False)
    right = visitor.post("/login", data={"password": "correct horse"})
    assert right.headers["location"] == "/"
    for word in ("HttpOnly", "SameSite=Strict", "Secure"):
        assert word in right.headers["set-cookie"].split("; ")
    assert visitor.get("/api/clips").json() == {"clips": []}
    cookie = visitor.cookies[COOKIE]
    visitor.post("/logout")
    visitor.cookies.set(COOKIE, cookie)
    assert visitor.get("/api/clips").status_code == 401


def test_a_made_up_cookie_opens_nothing(serve):
    visitor = serve(password="correct horse", local=False)
    visitor.cookies.set(COOKIE, "guess")
    assert visitor.get("/api/clips").status_code == 401


def test_sessions_end_after_half_a_day():
    now = 0.0
    sessions = Sessions("correct horse", now=lambda: now)
    token = sessions.begin()
    assert sessions.known(token)
    now = 12 * 3600.0
    assert not sessions.known(token)


def test_the_page_learns_the_limits_and_the_codecs_that_work(serve):
    found = serve(Limits(seconds=7.0), sandbox=True).get("/api/settings").json()
    assert (found["seconds"], found["upload_bytes"], found["sound"]) == (7.0, 500_000_000, False)
    assert {"h264", "ffv1"} <= set(found["codecs"])


def test_an_upload_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr(app, "_PATIENCE", 0.05)

    async def stalled():
        yield b"begin"
        await asyncio.sleep(30)

    async def read():
        parts = aiter(stalled())
        assert await app._next(parts) == b"begin"
        with pytest.raises(Refused, match="Nothing of the file came") as refused:
            await app._next(parts)
        assert refused.value.status == 408

    asyncio.run(read())
