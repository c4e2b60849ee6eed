"""Makes the package's page of README.md: there, paths in this repository lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"^(?:!\[[^]]*\]\((?!https?:)[^)]*\)|<img src=\"(?!https?:)[^>]*>)\n\n?", re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:|#)[^)]*\)")


def package_page(readme: str) -> str:
    """The text with its links to the web alone; of the others the words stay, of pictures nothing."""
    return _LINK.sub(r"*\1*", _PICTURE.sub("", readme))


class PackagePage(MetadataHookInterface):
    """Gives the package its description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`, which pyproject.toml declares dynamic."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": package_page(text)}
