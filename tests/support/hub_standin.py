"""A stand-in for the Hugging Face hub on loopback: as much of its HTTP interface as huggingface_hub needs to create a
repository, commit to it (small files in the commit, large ones by Git LFS), describe it and download from it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.repocard import REGEX_YAML_BLOCK

TOKEN = "hf_of_the_owner"
Files = dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    said_sizes: dict[str, int] = field(default_factory=dict)
    """Sizes to claim instead of the true ones."""

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b""}, "initial commit")

    def commit(self, branch: str, changes: Files, message: str) -> str:
        files = self.files(branch) | changes
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def files(self, revision: str) -> Files:
        sha = self.branches.get(revision, revision)
        return dict(self.commits.get(sha, {}))


def point(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN and HF_HUB_DISABLE_XET do at the start of a process."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", body: dict[str, Any] | None = None) -> None:
        self.status, self.code, self.body = status, code, body or {"error": code}


class Hub:
    """The hub; `endpoint` is its address while it runs as a context."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: Files = {}
        self.requests: list[str] = []
        """Method and path of each request, in order."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                hub.answer(self, self.rfile.read(size))

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloaded(self) -> list[str]:
        """Names of files whose content was asked for."""
        return [
            request.rpartition("/")[2] for request in self.requests if re.match(r"GET /[^/]+/[^/]+/resolve/", request)
        ]

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = urlsplit(handler.path)
        self.requests.append(f"{handler.command} {path.path}")
        owner = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
        pull_request = "?create_pr" if "/commit/" in path.path and "create_pr" in path.query else ""
        try:
            for pattern, answer in ROUTES:
                found = re.fullmatch(pattern, f"{handler.command} {path.path}{pull_request}")
                if found:
                    parts = [unquote(part) for part in found.groups() if part]
                    said = answer(self, owner, body, *parts)
                    break
            else:
                raise Refusal(404, "NoRoute")
            status, headers, content = said if isinstance(said, tuple) else (200, {}, json.dumps(said).encode())
        except Refusal as refusal:
            status, content = refusal.status, json.dumps(refusal.body).encode()
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def find(self, name: str, owner: bool) -> Repo:
        """The repository, if whoever asks may know of it."""
        repo = self.repos.get(name)
        if repo is None or (repo.private and not owner):
            raise Refusal(404 if owner else 401, "RepoNotFound")
        return repo

    # Writing

    def create(self, owner: bool, body: bytes) -> Any:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not owner:
            raise Refusal(401, body={"error": "Invalid username or password."})
        if asked["organization"] != "me":
            raise Refusal(403, body={"error": f"You don't have the rights to create a model under {name}"})
        url = {"url": f"{self.endpoint}/{name}"}
        if name in self.repos:
            raise Refusal(409, body=url | {"error": "You already created this model repo"})
        self.repos[name] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        return url

    def validate(self, owner: bool, body: bytes) -> Any:
        block = REGEX_YAML_BLOCK.search(json.loads(body)["content"])
        data = yaml.safe_load(block[2]) if block else {}
        if data.get("license") == "not-a-licence":
            raise Refusal(400, body={"errors": [{"message": '"license" must be one of [apache-2.0, mit, …]'}]})
        return {"errors": [], "warnings": []}

    def preupload(self, owner: bool, body: bytes, name: str, revision: str) -> Any:
        repo = self.writable(name, owner, revision)
        modes = []
        for file in json.loads(body)["files"]:
            there = repo.files(revision).get(file["path"])
            large = file["path"].endswith(".safetensors")
            oid = None if there is None else (_sha256(there) if large else _git_sha(there))
            modes.append(
                {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            )
        return {"files": modes}

    def batch(self, owner: bool, body: bytes, name: str) -> Any:
        self.writable(name, owner)
        objects: list[dict[str, Any]] = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.blobs:
                one["actions"] = {"upload": {"href": f"{self.endpoint}/lfs/{one['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def store(self, owner: bool, body: bytes, oid: str) -> Any:
        assert _sha256(body) == oid
        self.blobs[oid] = body
        return {}

    def branch(self, owner: bool, body: bytes, name: str, branch: str) -> Any:
        repo = self.writable(name, owner)
        if branch in repo.branches:
            raise Refusal(409)
        repo.branches[branch] = repo.branches["main"]
        return {}

    def commit(self, owner: bool, body: bytes, name: str, revision: str, pull_request: str = "") -> Any:
        repo = self.writable(name, owner, revision)
        changes, message = {}, ""
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                message = value["summary"]
            elif part["key"] == "lfsFile":
                changes[value["path"]] = self.blobs[value["oid"]]
            else:
                changes[value["path"]] = base64.b64decode(value["content"])
        address = None
        if pull_request:
            repo.branches["refs/pr/1"], revision = repo.branches[revision], "refs/pr/1"
            address = f"{self.endpoint}/{name}/discussions/1"
        sha = repo.commit(revision, changes, message)
        return {"commitUrl": f"{self.endpoint}/{name}/commit/{sha}", "commitOid": sha, "pullRequestUrl": address}

    def writable(self, name: str, owner: bool, revision: str = "main") -> Repo:
        repo = self.find(name, owner)
        if not owner:
            raise Refusal(403)
        if revision not in repo.branches:
            raise Refusal(404, "RevisionNotFound")
        return repo

    # Reading

    def describe(self, owner: bool, body: bytes, name: str, revision: str = "main") -> Any:
        repo = self.find(name, owner)
        files = self.at(repo, revision)
        siblings = [{"rfilename": path, "size": repo.said_sizes.get(path, len(data))} for path, data in files.items()]
        sha = repo.branches.get(revision, revision)
        return {"id": name, "modelId": name, "sha": sha, "private": repo.private, "tags": [], "siblings": siblings}

    def resolve(self, owner: bool, body: bytes, name: str, revision: str, path: str) -> Any:
        repo = self.find(name, owner)
        if repo.gated and not owner:
            raise Refusal(403, "GatedRepo")
        files = self.at(repo, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound")
        etag = _sha256(files[path])
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": repo.branches.get(revision, revision)}, files[path]

    def at(self, repo: Repo, revision: str) -> Files:
        if revision not in repo.branches and revision not in repo.commits:
            raise Refusal(404, "RevisionNotFound")
        return repo.files(revision)


NAME = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., Any]]] = [
    (r"POST /api/repos/create", Hub.create),
    (r"POST /api/validate-yaml", Hub.validate),
    (rf"POST /api/models/{NAME}/preupload/([^/]+)", Hub.preupload),
    (rf"POST /api/models/{NAME}/branch/([^/]+)", Hub.branch),
    (rf"POST /api/models/{NAME}/commit/([^/?]+)(\?create_pr)?", Hub.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Hub.batch),
    (r"PUT /lfs/(\w+)", Hub.store),
    (rf"GET /api/models/{NAME}", Hub.describe),
    (rf"GET /api/models/{NAME}/revision/([^/]+)", Hub.describe),
    (rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", Hub.resolve),
]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
