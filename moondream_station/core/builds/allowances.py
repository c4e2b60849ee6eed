"""What a manifest allows a backend's requirements beyond names and versions, each thing by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

SOURCES = (".tar.gz", ".zip")
"""How archives of sources end (PEP 625, and what was usual before)."""


@dataclass(frozen=True, slots=True)
class Allowances:
    """What may be in a requirements file, by name.

    Args:
        builds: Packages that may be built from source, where they have no wheel that fits.
        urls: Packages that may be given by a URL.
        files: Further files that may be read with `-r`, and their contents.
    """

    builds: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)

    def check_url(self, item: Requirement) -> None:
        """Check a requirement that is given by a URL.

        Raises:
            InvalidRequirement: It is not allowed, or is none that can be: the reason says which.
        """
        name = canonicalize_name(item.name)
        parts = urlsplit(item.url or "")
        filename = filename_of(item.url or "")
        if name not in self.urls:
            why = "addresses are not accepted, only names and versions, unless the manifest allows it by name"
        elif parts.scheme not in {"https", "http"}:
            why = "only http and https addresses can be allowed: what lies elsewhere can't be locked"
        elif "@" in parts.netloc:
            why = "an address must not hold credentials; put them into netrc"
        elif not filename.endswith((".whl", *SOURCES)):
            why = "an address must name a wheel or an archive of sources"
        elif not filename.endswith(".whl") and name not in self.builds:
            why = "it is no wheel, and the manifest does not allow to build it from source"
        else:
            return
        raise InvalidRequirement(why)


NOTHING = Allowances()


def filename_of(url: str) -> str:
    """The name of the file that a URL names."""
    return PurePosixPath(unquote(urlsplit(url).path)).name
