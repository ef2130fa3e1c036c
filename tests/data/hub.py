"""A hub of data sets on loopback: what the client library asks of it, answered from a folder."""

import http.server
import json
import threading
from contextlib import contextmanager
from functools import partial
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
_API, _FILES = "/api/datasets/org/name", "/datasets/org/name/resolve/main/"


class _Answers(http.server.BaseHTTPRequestHandler):
    def __init__(self, *arguments, folder):
        self._folder = folder
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_FILES):
            self._file(self._folder / path.removeprefix(_FILES))
        elif path.startswith(f"{_API}/tree/main"):
            self._json(self._tree(path.removeprefix(f"{_API}/tree/main").strip("/")))
        elif path in (_API, f"{_API}/revision/main"):
            self._json({"id": "org/name", "sha": COMMIT, "private": False, "disabled": False, "tags": []})
        else:
            self._nothing("RepoNotFound")

    def _tree(self, path):
        below = self._folder / path
        recursive = "recursive=true" in self.path.lower()
        found = below.rglob("*") if recursive else below.iterdir()
        return [self._entry(one) for one in sorted(found)] if below.is_dir() else None

    def _entry(self, place):
        path = place.relative_to(self._folder).as_posix()
        size = {"size": place.stat().st_size} if place.is_file() else {}
        return {"type": "file" if size else "directory", "oid": COMMIT, "path": path, **size}

    def _json(self, value):
        if value is None:
            self._nothing("EntryNotFound")
        else:
            self._content(200, json.dumps(value).encode())

    def _file(self, place):
        if not place.is_file():
            self._nothing("EntryNotFound")
            return
        content, asked = place.read_bytes(), self.headers.get("Range")
        if asked is None:
            self._content(200, content)
            return
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        self._content(206, content[first : last + 1])

    def _nothing(self, why):
        self.send_response(404)
        self.send_header("X-Error-Code", why)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _content(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{COMMIT}"')
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def hub(folder):
    """The URL of a hub whose one data set, org/name, is what is in a folder."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answers, folder=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
