"""A hub of models on loopback, as much of Hugging Face's as its client asks for to fetch a model."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Self

from support.index_server import IndexServer
from support.index_traffic import Resource

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ModelHub:
    """Serves folders as repositories. It is a context.

    Attributes:
        server: Its server; faults and requests are there.
        repositories: A folder by repository ("me/tiny").
        huge: Repositories whose files are said to have a petabyte each.
    """

    def __init__(self) -> None:
        self.server = IndexServer(self._resolve)
        self.repositories: dict[str, Path] = {}
        self.huge: set[str] = set()

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return self.server.address

    def _resolve(self, path: str, _: str) -> Resource | int:
        """`/api/models/ID/revision/REVISION` and `/ID/resolve/REVISION/FILE`."""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._described(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(found[1], found[2])
        return 404

    def _described(self, repository: str) -> Resource | int:
        if repository not in self.repositories:
            return 404
        files = [
            {
                "rfilename": path.name,
                "size": 10**15 if repository in self.huge else path.stat().st_size,
                "blobId": _digest(path.read_bytes()),
            }
            for path in sorted(self.repositories[repository].iterdir())
        ]
        info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": files}
        return Resource(content=json.dumps(info).encode(), content_type="application/json")

    def _file(self, repository: str, name: str) -> Resource | int:
        path = self.repositories.get(repository, Path("/nowhere")) / name
        if not path.is_file():
            return 404
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT}
        etag = f'"{_digest(content)}"'
        kind = "application/octet-stream"
        return Resource(content=content, content_type=kind, etag=etag, ranges=True, headers=headers)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
