"""A small server on 127.0.0.1 that speaks as much of the Hub's protocol as ``load_dataset`` and a push need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse


@dataclass
class Repository:
    """One data set: its files at every revision."""

    revisions: dict[str, dict[str, bytes]]
    private: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit id of a revision, by name or by id."""
        ids = {
            name: hashlib.sha1(f"{name}{sorted(files)}".encode()).hexdigest() for name, files in self.revisions.items()
        }
        return ids.get(revision) or (revision if revision in ids.values() else None)

    def files(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What the server holds, what was asked of it, and how it misbehaves."""

    repositories: dict[str, Repository]
    token: str = "hf_right"
    cut: dict[str, int] = field(default_factory=dict)
    """After how many bytes the next download of a path breaks off; each only once."""
    hold: dict[str, int] = field(default_factory=dict)
    """After how many bytes the next download of a path stands still until `release` is set; each only once."""
    holding: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    """``METHOD path [range]`` of every request."""
    uploaded: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The address under which it can be reached, for as long as the context lasts."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"hub": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Answer(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url, span = urlparse(self.path), self.headers.get("Range", "")
        path = unquote(url.path)
        self.hub.asked.append(f"{self.command} {path} {span}".strip())
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, answer in (
            (r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self._tree),
            (r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self._paths),
            (r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            (r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", self._upload),
        ):
            if found := re.fullmatch(pattern, path):
                name, *rest = found.groups()
                if (there := self._repository(name)) is not None:
                    answer(name, there, *rest, query=parse_qs(url.query), body=body)
                return
        if path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization') or 'me'}/{made['name']}"
            self.hub.repositories.setdefault(name, Repository({"main": {}}, made.get("private", False)))
            return self._json({"url": f"{self._own()}/datasets/{name}", "name": name})
        if path == "/api/whoami-v2":
            return self._json({"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        self._error(404, "EntryNotFound")

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        given = self.headers.get("Authorization", "")
        if found is None or (found.private and given != f"Bearer {self.hub.token}"):
            self._error(401, "RepoNotFound")  # as the Hub: a private repository does not exist for strangers
            return None
        return found

    def _at(self, there: Repository, revision: str) -> str | None:
        commit = there.commit(revision)
        if commit is None:
            self._error(404, "RevisionNotFound")
        return commit

    def _info(self, name, there, revision, *, query, body) -> None:
        if (commit := self._at(there, revision or "main")) is not None:
            siblings = [{"rfilename": path} for path in sorted(there.files(commit))]
            self._json({"id": name, "_id": "1", "sha": commit, "private": there.private, "disabled": False,
                        "gated": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})  # fmt: skip

    def _tree(self, name, there, revision, inside, *, query, body) -> None:
        if (commit := self._at(there, revision)) is None:
            return
        inside = f"{inside}/" if inside else ""
        files = {path: data for path, data in there.files(commit).items() if path.startswith(inside)}
        if inside and not files:
            return self._error(404, "EntryNotFound")
        entries, folders = [], set()
        for path, data in sorted(files.items()):
            parts = path[len(inside) :].split("/")
            folders |= {inside + "/".join(parts[:n]) for n in range(1, len(parts))}
            entries.append(_entry(path, data))
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": inner} for inner in sorted(folders)]
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"][len(inside) :]]
        self._json(entries)

    def _paths(self, name, there, revision, *, query, body) -> None:
        if (commit := self._at(there, revision)) is None:
            return
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        files, found = there.files(commit), []
        for path in wanted:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(other.startswith(f"{path}/") for other in files):
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        self._json(found)

    def _resolve(self, name, there, revision, path, *, query, body) -> None:
        if (commit := self._at(there, revision)) is None:
            return
        data = there.files(commit).get(path)
        if data is None:
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        etag, start, stop = f'"{hashlib.sha256(data).hexdigest()}"', 0, len(data)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(span[1]), min(int(span[2]) + 1, len(data)) if span[2] else len(data)
        self.send_response(206 if span else 200)
        headers = {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        for key, value in headers.items():
            self.send_header(key, value)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.hub.hold:
            self.wfile.write(data[start : start + self.hub.hold.pop(path)])
            self.wfile.flush()
            self.hub.holding.set()
            self.hub.release.wait(30)
            self.close_connection = True
            return
        if path in self.hub.cut:
            self.wfile.write(data[start : start + self.hub.cut.pop(path)])
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(data[start:stop])

    def _upload(self, name, there, step, revision, *, query, body) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(403, "Forbidden")
        if step == "preupload":
            wanted = [item["path"] for item in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in wanted]
            return self._json({"files": files, "commitOid": there.commit("main")})
        import base64

        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                path, content = item["value"]["path"], base64.b64decode(item["value"]["content"])
                self.hub.uploaded[path] = there.revisions["main"][path] = content
        commit = there.commit("main")
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self._own()}/datasets/{name}/commit/{commit}",
                    "hookOutput": "", "pullRequestUrl": None})  # fmt: skip

    def _own(self) -> str:
        return f"http://{self.headers.get('Host')}"

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        data = json.dumps({"error": code}).encode()
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
