"""What a package page shows of README.md, by the hook that hatchling runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.pages import ROOT

_LINK = re.compile(r"\[([^]]+)\]\(([^)]*)\)")


def test_no_link_leads_into_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words stay, in emphasis; pictures go; everything else is README.md's."""
    interface: Any = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object  # hatchling itself is where a package is built
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    metadata: dict[str, Any] = {}
    hook.PackagePage.update(SimpleNamespace(root=str(ROOT)), metadata)
    page, readme = metadata["readme"]["text"], (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["readme"]["content-type"] == "text/markdown"
    assert [target for _, target in _LINK.findall(page) if "://" not in target] == []
    assert not re.search(r"<img|!\*", page)
    inside = [words for words, target in _LINK.findall(readme) if target.endswith(".md")]
    assert inside
    assert [words for words in inside if f"*{words}*" not in page] == []
    assert [
        line for line in readme.splitlines() if line not in page and not re.search(r"\]\(|<img|^ +alt=", line)
    ] == []
