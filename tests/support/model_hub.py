"""A hub of models on loopback, as much of Hugging Face's as its client asks for to fetch a model."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple, Self

from support.index_server import IndexServer
from support.index_traffic import Resource
from support.xet_store import TOKEN, XetStore

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ModelHub:
    """Serves folders as repositories. It is a context.

    Attributes:
        server: Its server; faults and requests are there.
        repositories: A folder by repository ("me/tiny").
        commits: What `main` of a repository names; COMMIT by default.
        huge: Repositories whose files are said to have a petabyte each.
        xet: Xet's storage, which it offers weights from where it `has_xet`.
    """

    def __init__(self) -> None:
        self.server = IndexServer(self._resolve)
        self.repositories: dict[str, Path] = {}
        self.commits: dict[str, str] = {}
        self.huge: set[str] = set()
        self.xet = XetStore()
        self.has_xet = False

    def __enter__(self) -> Self:
        self.server.start()
        self.xet.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.xet.server.stop()
        self.server.stop()

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return self.server.address

    def _resolve(self, path: str, _: str) -> Resource | int:
        """`/api/models/ID/revision/REVISION` and `/ID/resolve/REVISION/FILE`."""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._described(found[1], found[2])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            return self._listed(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3])
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/xet-read-token/[0-9a-f]{40}", path):
            return self._xet_access()
        return 404

    def _xet_access(self) -> Resource:
        """Where the storage is, and the token for it: in headers and as JSON."""
        url, expires = self.xet.server.address, 2**32
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": TOKEN, "X-Xet-Token-Expiration": str(expires)}
        content = json.dumps({"casUrl": url, "accessToken": TOKEN, "exp": expires}).encode()
        return Resource(content=content, content_type="application/json", headers=headers)

    def _commit(self, repository: str, revision: str | None) -> str:
        is_commit = revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
        return str(revision) if is_commit else self.commits.get(repository, COMMIT)

    def _described(self, repository: str, revision: str | None) -> Resource | int:
        if repository not in self.repositories:
            return 404
        files = []
        for path in sorted(self.repositories[repository].iterdir()):
            stored = _stored(path)
            size = 10**15 if repository in self.huge else len(stored.content)
            file = {"rfilename": path.name, "size": size, "blobId": stored.sha1}
            if path.suffix == ".safetensors":
                file["lfs"] = {"sha256": stored.sha256, "size": size, "pointerSize": 130}
            files.append(file)
        commit = self._commit(repository, revision)
        info = {"id": repository, "modelId": repository, "sha": commit, "siblings": files}
        return Resource(content=json.dumps(info).encode(), content_type="application/json")

    def _listed(self, repository: str) -> Resource | int:
        """The same files, as `snapshot_download` asks for them since 1.x."""
        if repository not in self.repositories:
            return 404
        files = []
        for path in sorted(self.repositories[repository].iterdir()):
            stored = _stored(path)
            file = {"type": "file", "path": path.name, "size": len(stored.content), "oid": stored.sha1}
            if path.suffix == ".safetensors":
                file["lfs"] = {"oid": stored.sha256, "size": len(stored.content), "pointerSize": 130}
            files.append(file)
        return Resource(content=json.dumps(files).encode(), content_type="application/json")

    def _file(self, repository: str, revision: str, name: str) -> Resource | int:
        path = self.repositories.get(repository, Path("/nowhere")) / name
        if not path.is_file():
            return 404
        stored = _stored(path)
        commit = self._commit(repository, revision)
        headers = {"X-Repo-Commit": commit}
        if self.has_xet and path.suffix == ".safetensors":
            route = f"{self.address}/api/models/{repository}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": self.xet.keep(stored.content), "Link": f'<{route}>; rel="xet-auth"'}
        etag = f'"{stored.sha256 if path.suffix == ".safetensors" else stored.sha1}"'
        kind = "application/octet-stream"
        return Resource(content=stored.content, content_type=kind, etag=etag, ranges=True, headers=headers)


class _Stored(NamedTuple):
    """A file, and what Git and Git LFS store it under."""

    content: bytes
    sha1: str
    sha256: str


def _stored(path: Path) -> _Stored:
    status = path.stat()
    return _stored_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _stored_once(path: Path, *_: int) -> _Stored:
    content = path.read_bytes()
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return _Stored(content, sha1, hashlib.sha256(content).hexdigest())
