"""Downloads against a server on this machine that fails, truncates, stalls, lies, redirects, and recovers. Nothing leaves this machine."""

import functools
import hashlib
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from minillm import corpus
from minillm.corpus import REMOTE_CORPORA, DownloadError, RemoteFile, download_corpus, download_file, load_corpus

TEXT = "".join(f"line {k} of the text\n" for k in range(20_000)).encode()  # about 430 KB
OTHER = TEXT.replace(b"text", b"TEXT")
HASH = hashlib.sha256(TEXT).hexdigest()
Answer = Callable[["Handler", int], None]


class Handler(http.server.BaseHTTPRequestHandler):
    "Gives request number k to the k-th answer of the test, later ones to the last."

    protocol_version = "HTTP/1.1"
    answers: list[Answer]
    asked: list[dict[str, str]]

    def do_GET(self) -> None:
        self.asked.append({"path": self.path, **dict(self.headers)})
        self.close_connection = True
        self.answers[min(len(self.asked), len(self.answers)) - 1](self, len(self.asked))

    def log_message(self, *arguments: object) -> None:
        pass

    def reply(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def whole(handler: Handler, k: int = 0, *, data: bytes = TEXT, tag: str | None = '"v1"', upto: int | None = None, **headers: object) -> None:
    "The answer of a good server: the whole file, or the rest that was asked for. `upto`: break off after so many bytes."
    start, said = 0, {name.replace("_", "-"): value for name, value in headers.items()}
    if tag is not None:
        said["ETag"] = tag
    asked = handler.headers.get("Range")
    if asked and (tag is None or handler.headers.get("If-Range") == tag):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            return handler.reply(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
        said["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    said = {"Content-Length": len(data) - start, "Content-Type": "text/plain", **said}
    handler.reply(206 if start else 200, said, data[start : None if upto is None else start + upto])


def status(code: int) -> Answer:
    return lambda handler, k: handler.reply(code, {"Content-Length": 0})


def cut(upto: int, **keywords: object) -> Answer:
    return functools.partial(whole, upto=upto, **keywords)


def stall(handler: Handler, k: int) -> None:
    handler.reply(200, {"Content-Length": len(TEXT), "ETag": '"v1"'}, TEXT[:100_000])
    time.sleep(0.6)


def reset(handler: Handler, k: int) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def without_range(handler: Handler, k: int) -> None:
    "Ignores Range, as a simple server does."
    handler.reply(200, {"Content-Length": len(TEXT), "ETag": '"v1"'}, TEXT)


def chunked(handler: Handler, k: int) -> None:
    "No length said; the body comes in chunks, and the end is missing the first time."
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(TEXT), 100_000):
        piece = TEXT[start : start + 100_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if k == 1:
            return
    handler.wfile.write(b"0\r\n\r\n")


def wrong_part(handler: Handler, k: int) -> None:
    "Answers a question for the rest with another part."
    headers = {"Content-Range": f"bytes 5-{len(TEXT) - 1}/{len(TEXT)}", "Content-Length": len(TEXT) - 5, "ETag": '"v1"'}
    handler.reply(206, headers, TEXT[5:])


def other_part(handler: Handler, k: int) -> None:
    "Ignores If-Range: sends the rest of a file that has changed."
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    headers = {"Content-Range": f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}", "Content-Length": len(OTHER) - start}
    handler.reply(206, {**headers, "ETag": '"v2"'}, OTHER[start:])


Server = Callable[..., tuple[str, list[dict[str, str]]]]


@pytest.fixture
def serve() -> Iterator[Server]:
    "serve(answer, …) starts a server and gives a file's address and the list of requests."
    servers = []

    def start(*answers: Answer) -> tuple[str, list[dict[str, str]]]:
        asked: list[dict[str, str]] = []
        kind = type("One", (Handler,), {"answers": list(answers), "asked": asked})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.handle_error = lambda *arguments: None  # a client that goes away is part of the game
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file.txt", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(url: str, path: Path, **keywords: object) -> Path:
    return download_file(url, path, **{"sha256": HASH, "timeout": 5, "pause": 0.001, "progress": False, **keywords})


def beside(path: Path) -> set[str]:
    return {p.name for p in path.parent.iterdir()}


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ([whole], 1),
        ([status(500), status(503), status(429), status(408), whole], 5),
        ([cut(100_000), whole], 2),
        ([cut(0), cut(0), whole], 3),
        ([cut(1), cut(100_000), cut(200_000), whole], 4),
        ([cut(len(TEXT) - 1), whole], 2),
        ([stall, whole], 2),
        ([reset, whole], 2),
        ([cut(100_000), without_range], 2),
        ([cut(100_000), wrong_part, whole], 3),
        ([cut(100_000), other_part, whole], 3),  # it changed, and changed back
        ([cut(100_000, data=OTHER, tag='"v0"'), whole], 2),  # it changed: the good server sends all of it
        ([cut(100_000, tag='W/"v1"'), whole], 2),  # a weak tag must not be used for parts
        ([cut(100_000, tag=None), whole], 2),
        ([cut(100_000, tag=None, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT"), whole], 2),
        ([cut(100_000, data=OTHER), whole], 3),  # lies: another file with the same tag; the hash notices, all is fetched again
        ([cut(100_000, Content_Length=len(TEXT) + 5), whole], 2),  # lies about the length
        ([chunked, chunked], 2),
        ([functools.partial(whole, tag=None)], 1),
    ],
)
def test_it_recovers(serve, tmp_path, answers, requests):
    url, asked = serve(*answers)
    path = tmp_path / "deep" / "file.txt"
    assert fetch(url, path, timeout=0.3 if stall in answers else 5) == path and path.read_bytes() == TEXT
    assert len(asked) == requests
    assert beside(path) == {"file.txt", "file.txt.sha256"}
    assert (tmp_path / "deep" / "file.txt.sha256").read_text(encoding="utf-8") == f"{HASH}  file.txt\n"
    assert fetch(url, path) == path and len(asked) == requests  # there already: nobody is asked


def test_it_goes_on_where_it_stopped(serve, tmp_path):
    "Within one call and across calls; only what is missing is asked for, and only of the same version."
    url, asked = serve(cut(100_000), status(500), status(500), cut(150_000), whole)
    with pytest.raises(DownloadError, match=r"500 .* 100,000 bytes are kept: call again to go on"):
        fetch(url, tmp_path / "file.txt", attempts=3)
    assert beside(tmp_path / "x") == {"file.txt.part", "file.txt.part.mark"}
    fetch(url, tmp_path / "file.txt", attempts=2)
    ranges = [(one.get("Range"), one.get("If-Range")) for one in asked]
    assert ranges == [(None, None), *[("bytes=100000-", '"v1"')] * 3, ("bytes=250000-", '"v1"')]
    assert (tmp_path / "file.txt").read_bytes() == TEXT


def test_weak_tags_are_not_used_for_parts(serve, tmp_path):
    url, asked = serve(cut(100_000, tag='W/"v1"'), functools.partial(whole, tag='W/"v1"'))
    fetch(url, tmp_path / "file.txt")
    assert [one.get("Range") for one in asked] == [None, None]
    url, asked = serve(cut(9, tag=None, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT"), whole)
    fetch(url, tmp_path / "other.txt")
    assert asked[1]["If-Range"] == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_nothing_packed_is_asked_for(serve, tmp_path):
    url, asked = serve(whole)
    fetch(url, tmp_path / "file.txt")
    assert asked[0]["Accept-Encoding"] == "identity" and asked[0]["User-Agent"] == "minillm"


@pytest.mark.parametrize(
    ("answers", "requests", "words"),
    [
        ([status(404)], 1, ["404", "has the file moved?"]),
        ([status(403)], 1, ["403"]),
        ([status(500)], 5, ["500"]),
        ([stall], 5, ["timed out"]),
        ([reset], 5, ["the connection broke"]),
        ([cut(0)], 5, ["ended after 0 of"]),
        ([functools.partial(whole, data=OTHER)], 1, ["has the hash", f"expected {HASH}"]),
        ([functools.partial(whole, data=TEXT[:-1])], 1, ["expected"]),
        ([functools.partial(whole, data=b"")], 1, ["expected"]),
        ([functools.partial(whole, Content_Type="text/html; charset=utf-8")], 1, ["text/html", "login page"]),
        ([functools.partial(whole, Content_Encoding="gzip")], 1, ["gzip"]),
        ([functools.partial(whole, Content_Length=len(TEXT) - 100)], 1, ["expected"]),  # lies: shorter than it is
        ([functools.partial(whole, Content_Length=len(TEXT) + 100)], 5, [f"of {len(TEXT) + 100:,} bytes"]),
        ([lambda handler, k: handler.wfile.write(b"rubbish\r\n\r\n")], 5, ["connection broke"]),
        ([lambda handler, k: None], 5, ["connection broke"]),
        ([lambda handler, k: handler.reply(204, {"Content-Length": 0})], 5, ["answered 204"]),
    ],
)
def test_it_gives_up_and_says_why(serve, tmp_path, answers, requests, words):
    url, asked = serve(*answers)
    with pytest.raises(DownloadError) as error:
        fetch(url, tmp_path / "file.txt", timeout=0.1 if answers == [stall] else 5)
    assert len(asked) == requests
    for word in [*words, url, f"by hand: {tmp_path / 'file.txt'}"]:
        assert word in str(error.value)
    assert not (tmp_path / "file.txt").exists()  # whole or not at all
    assert isinstance(error.value, OSError)


def test_a_server_that_lies_after_a_resume_is_believed_only_once(serve, tmp_path):
    url, asked = serve(cut(100_000, data=OTHER), functools.partial(whole, data=OTHER))
    with pytest.raises(DownloadError, match="expected"):
        fetch(url, tmp_path / "file.txt")
    assert len(asked) == 3 and asked[2].get("Range") is None  # parts, rest, and once more as a whole
    assert beside(tmp_path / "x") == set()


def test_a_server_that_lies_in_parts_again_and_again(serve, tmp_path):
    def answer(handler: Handler, k: int) -> None:
        status(404)(handler, k) if k > 20 else whole(handler, k, data=OTHER, upto=100_000 if k % 2 else None)

    url, asked = serve(answer)
    with pytest.raises(DownloadError, match="expected"):
        fetch(url, tmp_path / "file.txt")
    assert len(asked) == 4


def test_without_a_known_hash_the_mark_of_each_part_decides(serve, tmp_path):
    url, asked = serve(cut(100_000), other_part, whole)
    assert fetch(url, tmp_path / "file.txt", sha256="").read_bytes() == TEXT and len(asked) == 3
    url, asked = serve(cut(100_000, data=OTHER, tag='"v0"'), whole)
    assert fetch(url, tmp_path / "new.txt", sha256="").read_bytes() == TEXT and len(asked) == 2


@pytest.mark.parametrize("delays", [(0, 0.05), (0, 0, 0)])
def test_two_at_once(serve, tmp_path, delays):
    "Two notebooks fetch the same file: one does, the other waits and finds it."
    faults: list[BaseException] = []

    def slow(handler: Handler, k: int) -> None:
        handler.reply(200, {"Content-Length": len(TEXT), "ETag": '"v1"'})
        for start in range(0, len(TEXT), 50_000):
            handler.wfile.write(TEXT[start : start + 50_000])
            time.sleep(0.02)

    def one(delay: float) -> None:
        time.sleep(delay)
        try:
            fetch(url, tmp_path / "file.txt", sha256="")
        except BaseException as error:
            faults.append(error)

    url, asked = serve(slow)
    threads = [threading.Thread(target=one, args=(delay,)) for delay in delays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(asked) == 1 and (tmp_path / "file.txt").read_bytes() == TEXT
    assert beside(tmp_path / "x") == {"file.txt", "file.txt.sha256"}


def test_what_is_on_the_disk_is_counted(serve, tmp_path):
    "Somebody else writes into the part, past the lock."

    def disturbed(handler: Handler, k: int) -> None:
        handler.reply(200, {"Content-Length": len(TEXT), "ETag": '"v1"'}, TEXT[:200_000])
        handler.wfile.flush()
        end = time.monotonic() + 10
        while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
            time.sleep(0.01)
        with part.open("ab") as file:
            file.write(b"strange")
        handler.wfile.write(TEXT[200_000:])

    part = tmp_path / "file.txt.part"
    url, asked = serve(disturbed, whole)
    assert fetch(url, tmp_path / "file.txt", sha256="").read_bytes() == TEXT
    assert [one.get("Range") for one in asked] == [None, f"bytes={len(TEXT) + 7}-", None]


def test_sizes(serve, tmp_path):
    url, asked = serve(whole)
    with pytest.raises(DownloadError, match=f"it has {len(TEXT):,} bytes or more, and max_bytes=1,000; try max_bytes={2 * len(TEXT)}"):
        fetch(url, tmp_path / "file.txt", max_bytes=1_000)
    assert len(asked) == 1 and not (tmp_path / "file.txt.part").exists()
    url, asked = serve(chunked, chunked)  # says no size
    with pytest.raises(DownloadError, match=r"bytes or more, and max_bytes=150,000"):
        fetch(url, tmp_path / "file.txt", max_bytes=150_000, attempts=2)
    fetch(serve(whole)[0], tmp_path / "file.txt", max_bytes=len(TEXT))


def test_part_longer_than_the_file(serve, tmp_path):
    "The publisher has made the file shorter: 416 Range Not Satisfiable."
    (tmp_path / "file.txt.part").write_bytes(TEXT + b"more")
    (tmp_path / "file.txt.part.mark").write_text('"v1"', encoding="utf-8")
    url, asked = serve(whole)
    fetch(url, tmp_path / "file.txt")
    assert len(asked) == 2 and (tmp_path / "file.txt").read_bytes() == TEXT


@pytest.mark.parametrize("where", ["/other.txt", "//127.0.0.1:{port}/other.txt", "http://127.0.0.1:{port}/other.txt"])
def test_redirects_are_followed(serve, tmp_path, where):
    url, asked = serve(lambda handler, k: handler.reply(302, {"Location": target, "Content-Length": 0}), whole)
    target = where.format(port=url.split(":")[2].split("/")[0])
    fetch(url, tmp_path / "file.txt")
    assert [one["path"] for one in asked] == ["/file.txt", "/other.txt"]


def test_a_redirect_keeps_the_range(serve, tmp_path):
    there = lambda handler, k: handler.reply(302, {"Location": "/other.txt", "Content-Length": 0})
    url, asked = serve(there, cut(100_000), there, whole)
    fetch(url, tmp_path / "file.txt")
    assert asked[3]["path"] == "/other.txt" and asked[3]["Range"] == "bytes=100000-"


@pytest.mark.parametrize("target", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"])
def test_redirects_to_unsafe_places_are_not_followed(serve, tmp_path, target):
    url, asked = serve(lambda handler, k: handler.reply(302, {"Location": target, "Content-Length": 0}))
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "file.txt")
    assert len(asked) == 1 and not (tmp_path / "file.txt").exists()


def test_redirects_in_a_circle(serve, tmp_path):
    url, asked = serve(lambda handler, k: handler.reply(302, {"Location": "/file.txt", "Content-Length": 0}))
    with pytest.raises(DownloadError, match="302"):
        fetch(url, tmp_path / "file.txt")


@pytest.mark.parametrize("url", ["http://example.org/x.txt", "file:///etc/passwd", "ftp://example.org/x", "x.txt", ""])
def test_only_https(tmp_path, url):
    with pytest.raises(ValueError, match="only https"):
        download_file(url, tmp_path / "x.txt")


def test_from_outside_to_this_machine(monkeypatch):
    "A server elsewhere must not make us ask one here."
    handler = corpus._CarefulRedirects(local=False)
    with pytest.raises(DownloadError, match="redirected"):
        handler.redirect_request(None, None, 302, "", {}, "http://127.0.0.1:8000/secret")


def test_offline(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.txt"
    with pytest.raises(DownloadError, match=r"no connection \(.*refused.*by hand: .*x\.txt"):
        fetch(url, tmp_path / "x.txt", attempts=2)
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    monkeypatch.setattr(corpus.time, "sleep", lambda seconds: None)
    with pytest.raises(DownloadError) as error:  # the tests' own guard refuses every address outside
        download_corpus("tinyshakespeare", progress=False)
    for word in (REMOTE_CORPORA["tinyshakespeare"].url, str(tmp_path / "tinyshakespeare.txt"), "no connection"):
        assert word in str(error.value)


def test_pauses_grow(serve, tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(corpus.time, "sleep", slept.append)
    with pytest.raises(DownloadError):
        fetch(serve(status(500))[0], tmp_path / "x.txt", pause=1.0)
    assert slept == [1, 2, 4, 8, 0]


def test_certificates(tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate in chain"))

    monkeypatch.setattr(corpus, "_open_url", refuse)
    with pytest.raises(DownloadError, match=r"self-signed.*SSL_CERT_FILE"):
        download_file("https://example.org/x.txt", tmp_path / "x.txt", progress=False)


def test_a_full_disk_is_not_a_network_error(serve, tmp_path, monkeypatch):
    def full(self: Path, *arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    url, asked = serve(whole)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left") as error:
        fetch(url, tmp_path / "file.txt")
    assert not isinstance(error.value, DownloadError) and len(asked) == 1


def test_a_proxy_is_not_asked_for_this_machine(serve, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(serve(whole)[0], tmp_path / "file.txt")


def test_the_hash_of_the_first_use_is_remembered(serve, tmp_path):
    url, _ = serve(whole, functools.partial(whole, data=OTHER))
    path = tmp_path / "file.txt"
    fetch(url, path, sha256="")
    path.unlink()
    with pytest.raises(DownloadError, match=f"at its first use it had {HASH}.*To take the new one, delete .*file.txt.sha256"):
        fetch(url, path, sha256="")
    (tmp_path / "file.txt.sha256").unlink()
    assert fetch(url, path, sha256="").read_bytes() == OTHER


@pytest.mark.parametrize("record", ["", "\n", HASH[:40]])
def test_a_record_that_was_cut_off_is_none(serve, tmp_path, record):
    (tmp_path / "file.txt.sha256").write_text(record, encoding="utf-8")
    fetch(serve(whole)[0], tmp_path / "file.txt", sha256="")
    assert (tmp_path / "file.txt.sha256").read_text(encoding="utf-8") == f"{HASH}  file.txt\n"


def test_hashes_in_capitals(serve, tmp_path):
    url, asked = serve(whole)
    for _ in range(2):
        assert fetch(url, tmp_path / "file.txt", sha256=HASH.upper()).exists()
    assert len(asked) == 1


def test_a_file_put_there_by_hand_is_checked(serve, tmp_path):
    url, asked = serve(whole)
    path = tmp_path / "file.txt"
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match=r"file.txt has the hash .* expected"):
        fetch(url, path)
    assert path.read_bytes() == OTHER and not asked  # what somebody put there is left alone
    path.write_bytes(TEXT)
    assert fetch(url, path) == path and not asked
    fetch(url, path, sha256="")  # recorded by now
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match="at its first use"):
        fetch(url, path, sha256="")


def test_a_corpus_by_name(serve, tmp_path, monkeypatch, capsys):
    url, asked = serve(whole)
    remotes = {"known": RemoteFile("known.txt", url, "MIT", HASH), "new": RemoteFile("new.txt", url, "MIT")}
    monkeypatch.setattr(corpus, "REMOTE_CORPORA", MappingProxyType(remotes))
    monkeypatch.setattr(corpus, "CORPORA", ("sample", *remotes))
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"download_corpus\('known'\)"):
        load_corpus("known")
    assert not asked  # nothing is fetched that was not asked for
    assert download_corpus("known", progress=False) == tmp_path / "cache" / "known.txt"
    assert "the one that this library was tested with" in capsys.readouterr().out
    assert load_corpus("known") == [TEXT.decode().removesuffix("\n")]
    download_corpus("new", folder=tmp_path / "mine", progress=False)
    said = capsys.readouterr().out
    assert "there is no known hash to compare with; that of this first use is now in new.txt.sha256" in said and f"{len(TEXT):,} bytes" in said
    with pytest.raises(DownloadError, match="max_bytes"):
        download_corpus("new", max_bytes=10, progress=False)
    with pytest.raises(ValueError, match="try 'known'"):
        download_corpus("knwon")


def test_progress_is_shown(serve, tmp_path, capsys):
    fetch(serve(cut(100_000), whole)[0], tmp_path / "file.txt", progress=True)
    shown = capsys.readouterr().err
    assert "file.txt" in shown and "100%" in shown


def test_killed_in_the_middle(serve, tmp_path):
    "What a killed process leaves behind is a part, never a file that looks whole; the next call goes on from there."
    hold = threading.Event()

    def slow(handler: Handler, k: int) -> None:
        handler.reply(200, {"Content-Length": len(TEXT), "ETag": '"v1"'}, TEXT[:200_000])
        handler.wfile.flush()
        hold.wait(10)

    url, asked = serve(slow, whole)
    code = f"from minillm.corpus import download_file; from pathlib import Path; download_file({url!r}, Path('file.txt'), progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(corpus.__file__).parents[1])})
    part = tmp_path / "file.txt.part"
    end = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    hold.set()
    size = part.stat().st_size
    assert 0 < size <= 200_000 and not (tmp_path / "file.txt").exists()
    fetch(url, tmp_path / "file.txt")
    assert asked[1]["Range"] == f"bytes={size}-"


def test_the_table_of_published_texts():
    hashes = [remote.sha256 for remote in REMOTE_CORPORA.values() if remote.sha256]
    assert len(set(hashes)) == len(hashes) and all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in hashes)
    assert len({remote.file for remote in REMOTE_CORPORA.values()}) == len(REMOTE_CORPORA)
    assert all(remote.url.startswith("https://") and remote.licence for remote in REMOTE_CORPORA.values())
