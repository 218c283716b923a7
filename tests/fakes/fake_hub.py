"""A Hugging Face Hub on the loopback interface, for the real client."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
from huggingface_hub import constants

RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"
PROXIES = [spelled for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") for spelled in (name, name.lower())]
LFS_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".tar")


class HubServer:
    """Repositories in memory behind the addresses, headers and error codes of the Hub.

    Large files are redirected to a second server, the "CDN", which is another origin as in reality.

    Attributes:
        commits: files by path, by commit, by repository; the newest commit is also called `main`.
        token: of somebody who was granted access to every gated repository.
        gated: repositories that only the bearer of `token` may read.
        requests: method and path of every request so far.
        user: who bears `token`, and the only one who may write, to repositories of that name.
        created: options of the repositories that the client made.
        uploaded: large files by their checksum.
        refuse_uploads: let large files fail.
        ranges: the Range header of every request that had one.
        spoilt: what the CDN sends instead of some contents.
        break_off_after: number of bytes after which each of the next contents breaks off.
    """

    token = "hf_somebody"
    user = "user"

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.created: dict[str, dict[str, Any]] = {}
        self.uploaded: dict[str, bytes] = {}
        self.refuse_uploads = False
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.spoilt: dict[bytes, bytes] = {}
        self.break_off_after: list[int] = []
        self.status: int | None = None  # with which everything is answered
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        # Two names: some releases of the client take addresses of one host for the Hub's own, whatever their ports are.
        hosts = ("127.0.0.1", "localhost")
        self.address, self.cdn = (
            f"http://{host}:{server.server_port}" for host, server in zip(hosts, self._servers, strict=True)
        )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Make these the files of a repository and return the commit's hash."""
        digest = hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
        self.commits.setdefault(repository, {}).update({digest: files, "main": files})
        return digest

    def content(self, repository: str, path: str) -> bytes:
        return self.commits[repository]["main"][path]

    def count(self, method: str) -> int:
        """Return how many requests for files there were with a method."""
        return sum(m == method and ("/resolve/" in path or path.startswith("/cdn/")) for m, path in self.requests)

    def stop(self) -> None:
        """Stop listening and drop the connections that the client keeps."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []
        huggingface_hub.close_session()


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._get(with_content=False)

    def do_GET(self) -> None:
        self._get(with_content=True)

    def _get(self, with_content: bool) -> None:
        path = unquote(self.path)
        self.hub.requests.append((self.command, path))
        if self.hub.status is not None:
            return self.answer(self.hub.status)
        if path.startswith("/cdn/"):
            return self._send_cdn(*path.split("/")[2:], with_content)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._send_file(*match.groups(), with_content)
        if path.removeprefix("/api/models/") in self.hub.commits:
            known = self.authorization in (None, f"Bearer {self.hub.token}")
            return self._answer_json(200 if known else 401, {"id": path.removeprefix("/api/models/")})
        return self.answer(404)

    def _send_file(self, repository: str, revision: str, path: str, with_content: bool) -> None:
        commits = self.hub.commits.get(repository)
        if commits is None:
            return self.answer(401, error="RepoNotFound")
        if not self.may_read(repository):
            return self.answer(403 if self.authorization else 401, error="GatedRepo")
        if revision not in commits:
            return self.answer(404, error="RevisionNotFound")
        files = commits[revision]
        commit = next(name for name, known in commits.items() if known is files)
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return self.answer(404, headers, error="EntryNotFound")
        content = files[path]
        if path.endswith(LFS_SUFFIXES):
            digest = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "ETag": f'"{commit}"'}
            return self.answer(302, headers | linked | {"Location": f"{self.hub.cdn}/cdn/{digest}/{Path(path).name}"})
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.answer(200, headers | {"ETag": f'"{blob}"'}, content, with_content)

    def _send_cdn(self, digest: str, name: str, with_content: bool) -> None:
        assert self.authorization is None, "the client gave its token to another host"
        contents = (c for commits in self.hub.commits.values() for files in commits.values() for c in files.values())
        content = next(c for c in contents if hashlib.sha256(c).hexdigest() == digest)
        content = self.hub.spoilt.get(content, content)
        headers = {
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{name}";',
        }
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            self.hub.ranges.append(self.headers["Range"])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self.answer(status, headers, content, with_content)

    def do_PUT(self) -> None:
        self.hub.requests.append((self.command, self.path))
        content = self._content()
        digest = self.path.removeprefix("/cdn/upload/")
        assert self.authorization is None and hashlib.sha256(content).hexdigest() == digest
        if not self.hub.refuse_uploads:
            self.hub.uploaded[digest] = content
        self.answer(403 if self.hub.refuse_uploads else 200)

    def do_POST(self) -> None:
        path = unquote(self.path)
        self.hub.requests.append((self.command, path))
        body = self._content()
        if self.authorization != f"Bearer {self.hub.token}":
            return self._answer_json(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer_json(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(**json.loads(body))
        match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/.]+)(?:\.git)?/(preupload/\w+|info/lfs/.*|commit/\w+)", path)
        assert match, path
        repository, action = match.groups()
        if not repository.startswith(f"{self.hub.user}/"):
            return self._answer_json(403, {"error": "You don't have the rights to write to this repository."})
        if action == "commit/main":
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        known = json.loads(body)
        if action == "preupload/main":
            modes = {f["path"]: "lfs" if f["path"].endswith(LFS_SUFFIXES) else "regular" for f in known["files"]}
            files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
            return self._answer_json(200, {"files": files})
        for wanted in known["objects"]:
            wanted["actions"] = {"upload": {"href": f"{self.hub.cdn}/cdn/upload/{wanted['oid']}"}}
        return self._answer_json(200, {"objects": known["objects"]})

    def _create(self, name: str, organization: str | None = None, **options: object) -> None:
        repository = f"{organization or self.hub.user}/{name}"
        if repository.split("/")[0] != self.hub.user:
            return self._answer_json(403, {"error": "You don't have the rights to create a model here."})
        if repository in self.hub.commits:
            url = f"{self.hub.address}/{repository}"
            return self._answer_json(409, {"error": "You already created this model repo", "url": url})
        self.hub.commits[repository] = {}
        self.hub.created[repository] = options
        return self._answer_json(200, {"url": f"{self.hub.address}/{repository}"})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.commits[repository].get("main", {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
        oid = self.hub.commit(repository, files)
        url = f"{self.hub.address}/{repository}/commit/{oid}"
        self._answer_json(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def _content(self) -> bytes:
        """Read what the client sends, also in chunks of unknown number."""
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer_json(self, status: int, content: dict[str, Any]) -> None:
        self.answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")

    def may_read(self, repository: str) -> bool:
        return repository not in self.hub.gated or self.authorization == f"Bearer {self.hub.token}"

    def answer(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        with_content: bool = True,
        error: str | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content and content:
            if self.hub.break_off_after:
                self.wfile.write(content[: self.hub.break_off_after.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh caches of the Hub's client and of the zoo; without `hub` nothing can be reached."""
    home = tmp_path / "hf_home"
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    for switch, value in (("OFFLINE", False), ("DISABLE_XET", True), ("DISABLE_IMPLICIT_TOKEN", False),
                          ("DISABLE_TELEMETRY", True), ("DISABLE_PROGRESS_BARS", None)):  # fmt: skip
        monkeypatch.setattr(constants, f"HF_HUB_{switch}", value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_ENDPOINT", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "mtpano_cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the port of the service that discards
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9" + RESOLVE)
    huggingface_hub.close_session()  # a session keeps the proxies of the environment it was made in
    return home / "hub"


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Run a Hub without repositories, the only one that the client knows of, and let the client not wait to retry."""
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + RESOLVE)
    impatient = SimpleNamespace(**{name: getattr(time, name) for name in dir(time)} | {"sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", impatient)
    monkeypatch.setattr("huggingface_hub.file_download.time", impatient)
    yield server
    server.stop()
