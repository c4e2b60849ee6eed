"""A backend's code as it lies ready to be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCode:
    """A backend's folder, and what the manifest says about it.

    Args:
        id: The backend's id in the manifest.
        version: Its version there.
        folder: Where its files are; nobody changes them while it is used.
        entry_module: The name of the module with `init_backend` and the functions, without `.py`.
        functions: What may be called over HTTP.
        requirements_text: The content of its `requirements.txt`, empty where it has none.
        digest: sha256 over the names and contents of its files, 64 hex digits.
    """

    id: str
    version: str
    folder: Path
    entry_module: str
    functions: tuple[str, ...]
    requirements_text: str
    digest: str
