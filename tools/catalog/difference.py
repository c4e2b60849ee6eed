"""What indexes list beside what the catalog says, as sentences, and the rows that the catalog lacks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, Row
from moondream_station.core.builds.naming import parse_build
from tools.catalog.wheels import SeenWheel

_Key: TypeAlias = tuple[str, str, str, bool]  # torch, build, platform, whether it is PyPI's own


@dataclass(slots=True)
class _Wheels:
    pythons: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)


def differences(
    seen: Iterable[SeenWheel],
    *,
    catalog: Catalog,
    answered: Iterable[str],
    companions: Mapping[str, Mapping[str, list[str]]],
) -> list[str]:
    """Where the catalog and the indexes differ, a sentence each, newest torch first.

    `answered` are the folders that were read ("pypi" for PyPI's): what the catalog has of others can't be
    missed. `companions` are the releases of each companion by the torch that their metadata names.
    """
    found, rows, read = _by_key(seen), _rows_by_key(catalog), set(answered)
    lines = [
        (key[0], line) for key, wheels in found.items() for line in _of_wheels(key, wheels, rows.get(key))
    ]
    lines += [
        (key[0], f"{_named(key)} is in the catalog, but not listed")
        for key, known in rows.items()
        if key not in found and (known[0].path or "pypi") in read
    ]
    for name, by_torch in companions.items():
        for torch, releases in by_torch.items():
            known_releases = catalog.companions(name, torch)
            if known_releases is not None and set(releases) - set(known_releases):
                lines.append((torch, f"{name} {_words(set(releases) - set(known_releases))} is for it too"))
    newest_first = sorted(lines, key=lambda line: (Version(line[0]), line[1]), reverse=True)
    return [f"torch {torch}: {line}" for torch, line in newest_first]


def _of_wheels(key: _Key, wheels: _Wheels, known: list[Row] | None) -> Iterator[str]:
    """How wheels that were seen differ from their rows."""
    if known is None:
        yield f"{_named(key)} is not in the catalog: {_words(wheels.pythons)}; {_words(wheels.tags)}"
        return
    if not all(row.verified for row in known):
        yield f"{_named(key)} is unverified in the catalog, but listed"
    pythons = {python for row in known for python in row.pythons}
    if pythons != wheels.pythons:
        yield f"{_named(key)} is for {_words(wheels.pythons)}, in the catalog for {_words(pythons)}"
    tags = {tag for row in known for tag in row.platform_tags}
    if not tags & wheels.tags:
        yield f"{_named(key)} has the tags {_words(wheels.tags)}, in the catalog {_words(tags)}"


def _named(key: _Key) -> str:
    _, build, platform, is_pypi = key
    return f"{build} for {platform}{' of PyPI' if is_pypi else ''}"


def new_releases(
    seen: Iterable[SeenWheel], *, catalog: Catalog, companions: Mapping[str, Mapping[str, list[str]]]
) -> str:
    """Rows for every torch that the catalog does not know, in its own form, to be reviewed and pasted."""
    known = {row.torch for row in catalog.rows}
    releases: dict[str, dict[_Key, _Wheels]] = defaultdict(dict)
    for key, wheels in _by_key(seen).items():
        if key[0] not in known:
            releases[key[0]][key] = wheels
    newest_first = sorted(releases, key=Version, reverse=True)
    return "\n\n".join(
        _release(torch, releases[torch], {name: of.get(torch, []) for name, of in companions.items()})
        for torch in newest_first
    )


def _release(torch: str, wheels: Mapping[_Key, _Wheels], companions: Mapping[str, list[str]]) -> str:
    platforms = sorted({platform for _, _, platform, _ in wheels})
    pythons = {
        platform: set().union(*(found.pythons for key, found in wheels.items() if key[2] == platform))
        for platform in platforms
    }
    usual = max(pythons.values(), key=len)
    apart = {platform: own for platform, own in pythons.items() if own != usual}
    tags = {
        platform: set().union(*(found.tags for key, found in wheels.items() if key[2] == platform))
        for platform in platforms
    }
    pypi = {platform: build for _, build, platform, is_pypi in wheels if is_pypi}
    builds: dict[str, list[str]] = defaultdict(list)
    for _, build, platform, is_pypi in wheels:
        if not is_pypi:
            builds[build].append(platform)
    lines = [
        "[[releases]]",
        f"torch = {json.dumps(torch)}",
        f"python = {json.dumps(_words(usual))}",
        *([f"python_on = {_table({name: _words(own) for name, own in apart.items()})}"] if apart else []),
        f"tags = {_table({platform: _words(found) for platform, found in tags.items()})}",
        f"pypi = {_table(pypi)}",
        *(f"{name} = {json.dumps(releases)}" for name, releases in companions.items()),
        "wheels = [",
        *(
            f"  {_table({'build': build, **dict.fromkeys(sorted(builds[build]), 'index')})},"
            for build in sorted(builds, key=lambda name: parse_build(name) or name)
        ),
        "]",
    ]
    return "\n".join(lines)


def _by_key(seen: Iterable[SeenWheel]) -> dict[_Key, _Wheels]:
    found: dict[_Key, _Wheels] = defaultdict(_Wheels)
    for wheel in seen:
        wheels = found[wheel.torch, wheel.build, wheel.platform, wheel.is_pypi]
        wheels.pythons.add(wheel.python)
        wheels.tags |= wheel.platform_tags
    return dict(found)


def _rows_by_key(catalog: Catalog) -> dict[_Key, list[Row]]:
    rows: dict[_Key, list[Row]] = defaultdict(list)
    for row in catalog.rows:
        rows[row.torch, row.build, row.platform, row.pypi].append(row)
    return dict(rows)


def _table(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"


def _words(texts: Iterable[str]) -> str:
    """Pythons or tags in the catalog's form: by their numbers, and parted by spaces."""
    return " ".join(sorted(texts, key=_numbers))


def _numbers(text: str) -> tuple[list[int], str]:
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in text).split()], text
