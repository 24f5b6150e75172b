"""A stand-in for the Hugging Face Hub: real HTTP on this machine, repositories in memory, faults on request.

It speaks the protocol of huggingface_hub without Xet. A client process runs with the variables `hub.environment()`.

    with HubServer() as hub:
        hub.fail("commit", 503)                # the next commit request is answered 503
        hub.fail("put", "drop", nth=2)         # the second upload's connection is cut before an answer
        hub.fail("commit", "lost")             # the commit is made, its answer is lost
        hub.fail("create", "hang")             # no answer until the client gives up
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

USER = "tester"


@dataclass
class Commit:
    """One state of a repository."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository with its history."""

    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str) -> Commit:
        """Add a state; its id depends on content and history."""
        digest = hashlib.sha1(f"{self.name} {len(self.commits)} {message}".encode(), usedforsecurity=False)
        for name, data in sorted(files.items()):
            digest.update(name.encode() + data)
        self.commits.append(Commit(digest.hexdigest(), message, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """The state at `main` or at a commit id."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)


@dataclass(frozen=True)
class Request:
    """What the server saw."""

    kind: str
    method: str
    path: str
    authorised: bool


class HubServer(ThreadingHTTPServer):
    """The stand-in; a context manager."""

    daemon_threads = True

    def __init__(self, token: str = "hf_" + "T0kenOfTheStandIn" * 2) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, list[int | str | None]] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a client process whose Hub is this server and whose cache is `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def add_repo(self, name: str, folder: Path | None = None, private: bool = False) -> str:
        """Create a repository with the files of a folder; returns its commit id."""
        self.repos[name] = repo = Repo(name, private)
        files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}
        return repo.commit({".gitattributes": b"*.safetensors filter=lfs\n", **files}, "initial commit").oid

    def fail(self, kind: str, how: int | str, nth: int = 1) -> None:
        """Spoil the nth coming request of a kind: a status, "drop", "lost" (done, then dropped) or "hang"."""
        queue = self.faults.setdefault(kind, [])
        queue.extend([None] * (nth - 1 - len(queue)))
        queue.append(how)

    def seen(self, kind: str) -> int:
        """How many requests of a kind came."""
        return sum(request.kind == kind for request in self.requests)

    def next_fault(self, kind: str) -> int | str | None:
        """What shall go wrong with this request."""
        queue = self.faults.get(kind)
        return queue.pop(0) if queue else None


_ROUTES = [
    ("whoami", "GET", r"/api/whoami-v2"),
    ("create", "POST", r"/api/repos/create"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("info", "GET", r"/api/models/(?P<repo>[^/]+/[^/]+)"),
    ("info", "GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)"),
    ("tree", "GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)"),
    ("settings", "PUT", r"/api/models/(?P<repo>[^/]+/[^/]+)/settings"),
    ("preupload", "POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)"),
    ("commit", "POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)"),
    ("batch", "POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("put", "PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("verify", "POST", r"/lfs/verify"),
    ("resolve", "GET|HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"),
]


class _Handler(BaseHTTPRequestHandler):
    """One connection. Every answer goes through `_answer`, so that a fault can spoil it."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, match = _find(self.command, path)
        authorised = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        with self.server.lock:
            self.server.requests.append(Request(kind, self.command, path, authorised))
            fault = self.server.next_fault(kind)
        if fault == "hang":
            self.server.closing.wait(60)
        if fault in ("hang", "drop"):
            return self._drop()
        if isinstance(fault, int):
            return self._answer(fault, {"error": "injected"})
        if match is None:
            return self._answer(404, {"error": f"no route {self.command} {path}"})
        self.lost = fault == "lost"
        with self.server.lock:
            return self._route(kind, authorised, body, match.groupdict())

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _route(self, kind: str, authorised: bool, body: bytes, match: dict[str, str]) -> None:
        if kind != "put" and not authorised and (kind not in ("info", "tree", "resolve") or self._is_private(match)):
            return self._answer(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
        handler: Callable[..., None] = getattr(self, f"_{kind}")
        if kind in ("whoami", "create", "validate", "put", "verify"):
            return handler(body, **match)
        repo = self.server.repos.get(match.pop("repo"))
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if kind in ("settings", "preupload", "commit", "batch"):
            return handler(body, repo)
        state = repo.at(match.pop("revision", "main"))
        if state is None:
            return self._answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        return handler(repo, state, **match)

    def _is_private(self, match: dict[str, str]) -> bool:
        repo = self.server.repos.get(match.get("repo", ""))
        return repo is None or repo.private

    def _whoami(self, body: bytes) -> None:
        self._answer(200, {"type": "user", "name": USER, "orgs": []})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        answer = {"url": f"{self.server.url}/{name}", "name": name}
        if name in self.server.repos:
            return self._answer(409, {"error": "You already created this model repo", **answer})
        self.server.add_repo(name, private=asked.get("visibility") == "private")
        return self._answer(200, answer)

    def _validate(self, body: bytes) -> None:
        found = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        try:
            header = yaml.safe_load(found[1]) if found else None
        except yaml.YAMLError as error:
            return self._answer(400, {"errors": [{"message": f"YAML: {error}"}], "warnings": []})
        wrong = header.get("license") == "no-such-license" if isinstance(header, dict) else True
        errors = [{"message": '"license" must be one of [apache-2.0, ...]'}] if wrong else []
        return self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _info(self, repo: Repo, state: Commit) -> None:
        siblings = [{"rfilename": name} for name in sorted(state.files)]
        info = {"id": repo.name, "sha": state.oid, "private": repo.private, "siblings": siblings, "tags": []}
        self._answer(200, info)

    def _tree(self, repo: Repo, state: Commit) -> None:
        self._answer(200, [_entry(name, data) for name, data in sorted(state.files.items())])

    def _settings(self, body: bytes, repo: Repo) -> None:
        repo.private = json.loads(body)["visibility"] == "private"
        self._answer(200, {"visibility": json.loads(body)["visibility"]})

    def _preupload(self, body: bytes, repo: Repo) -> None:
        files = []
        for asked in json.loads(body)["files"]:
            now = repo.commits[-1].files.get(asked["path"])
            entry = _entry(asked["path"], now) if now is not None else {}
            oid = entry["lfs"]["oid"] if "lfs" in entry else entry.get("oid")
            mode = "lfs" if asked["path"].endswith(".safetensors") else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def _batch(self, body: bytes, repo: Repo) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/lfs/{asked['oid']}", "header": {}},
                "verify": {"href": f"{self.server.url}/lfs/verify", "header": {}},
            }
            objects.append({**asked, **({} if asked["oid"] in self.server.blobs else {"actions": actions})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._answer(400, {"error": "checksum"})
        self.server.blobs[oid] = body
        return self._answer(200, {})

    def _verify(self, body: bytes) -> None:
        asked = json.loads(body)
        stored = self.server.blobs.get(asked["oid"])
        self._answer(200 if stored is not None and len(stored) == asked["size"] else 404, {})

    def _commit(self, body: bytes, repo: Repo) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header, operations = lines[0]["value"], lines[1:]
        if header.get("parentCommit") not in (None, repo.commits[-1].oid):
            return self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.commits[-1].files)
        for line in operations:
            value = line["value"]
            data = self.server.blobs[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
            files[value["path"]] = data
        oid = repo.commit(files, header["summary"]).oid
        url = f"{self.server.url}/{repo.name}/commit/{oid}"
        return self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, repo: Repo, state: Commit, name: str) -> None:
        headers = {"X-Repo-Commit": state.oid}
        data = state.files.get(name)
        if data is None:
            return self._answer(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
        entry = _entry(name, data)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        return self._answer(200, data, headers | {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream"})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        if getattr(self, "lost", False):
            return self._drop()
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""


def _find(method: str, path: str) -> tuple[str, re.Match[str] | None]:
    """The kind of request that this is."""
    for kind, methods, pattern in _ROUTES:
        match = re.fullmatch(pattern, path)
        if match and method in methods.split("|"):
            return kind, match
    return "unknown", None


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """A file as the tree endpoint lists it: git blob id, and for large files their SHA-256."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
