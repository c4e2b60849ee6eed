"""What indexes list beside what the catalog says, as sentences, and the rows that the catalog lacks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, Row
from moondream_station.core.builds.naming import Build, Kind, parse_build
from tools.catalog.wheels import Insides, SeenWheel

_Key: TypeAlias = tuple[str, str, str, bool]  # torch, build, platform, whether it is PyPI's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """A companion's releases that ask for a torch, newest first; which Pythons were tried, and refused."""

    releases: tuple[str, ...]
    pythons: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """What is refused, as a specifier; a minor version whole where every patch of it is."""
        minors = {python.rpartition(".")[0] for python in self.refused}
        whole = {
            minor
            for minor in minors
            if not any(one.startswith(f"{minor}.") and one not in self.refused for one in self.pythons)
        }
        patches = [python for python in self.refused if python.rpartition(".")[0] not in whole]
        names = [*(f"{minor}.*" for minor in sorted(whole, key=Version)), *sorted(patches, key=Version)]
        return ",".join(f"!={name}" for name in names)


@dataclass(slots=True)
class _Wheels:
    pythons: set[str] = field(default_factory=set)
    vendor: str | None = None
    tags: set[str] = field(default_factory=set)


_NOTHING = Fitting(releases=())


def differences(
    seen: Iterable[SeenWheel],
    *,
    catalog: Catalog,
    answered: Iterable[str],
    companions: Mapping[str, Mapping[str, Fitting]],
) -> list[str]:
    """Where the catalog and the indexes differ, a sentence each, newest torch first.

    `answered` are the folders and the indexes of AMD's that were read ("pypi" for PyPI's): what the catalog
    has of others can't be missed. `companions` are the releases of each companion by the torch that their
    metadata ask for.
    """
    found, rows, read = _by_key(seen), _rows_by_key(catalog), set(answered)
    lines = [
        (key[0], line) for key, wheels in found.items() for line in _of_wheels(key, wheels, rows.get(key))
    ]
    lines += [
        (key[0], f"{_named(key)} is in the catalog, but not listed")
        for key, known in rows.items()
        if key not in found and (known[0].vendor or known[0].path or "pypi") in read
    ]
    for name, by_torch in companions.items():
        for torch, fitting in by_torch.items():
            if (known_releases := catalog.companions(name, torch)) is None:
                continue
            if more := set(fitting.releases) - set(known_releases):
                lines.append((torch, f"{name} {_words(more)} is for it too"))
            known_pythons = catalog.companion_python(name, torch)
            for python in fitting.pythons:
                if (is_refused := python in fitting.refused) == known_pythons.contains(python):
                    what = "refuses" if is_refused else "accepts"
                    lines.append((torch, f"{name} {what} Python {python}, unlike in the catalog"))
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
    seen: Iterable[SeenWheel], *, catalog: Catalog, companions: Mapping[str, Mapping[str, Fitting]]
) -> str:
    """Rows for every torch that the catalog does not know, in its own form, to be reviewed and pasted."""
    known = {row.torch for row in catalog.rows}
    releases: dict[str, dict[_Key, _Wheels]] = defaultdict(dict)
    for key, wheels in _by_key(seen).items():
        if key[0] not in known:
            releases[key[0]][key] = wheels
    newest_first = sorted(releases, key=Version, reverse=True)
    return "\n\n".join(
        _release(torch, releases[torch], {name: of.get(torch, _NOTHING) for name, of in companions.items()})
        for torch in newest_first
    )


def _release(torch: str, wheels: Mapping[_Key, _Wheels], companions: Mapping[str, Fitting]) -> str:
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
    builds: dict[str, dict[str, str]] = defaultdict(dict)
    for (_, build, platform, is_pypi), found in wheels.items():
        if not is_pypi:
            builds[build] |= {"vendor": found.vendor} if found.vendor else {}
            builds[build][platform] = "index"
    lines = [
        "[[releases]]",
        f"torch = {json.dumps(torch)}",
        f"python = {json.dumps(_words(usual))}",
        *([f"python_on = {_table({name: _words(own) for name, own in apart.items()})}"] if apart else []),
        f"tags = {_table({platform: _words(found) for platform, found in tags.items()})}",
        f"pypi = {_table(pypi)}",
        *(f"{name} = {json.dumps(fitting.releases)}" for name, fitting in companions.items()),
        *(f"{name}_python = {json.dumps(of.python)}" for name, of in companions.items() if of.python),
        "wheels = [",
        *(
            f"  {_table({'build': build, **dict(sorted(builds[build].items()))})},"
            for build in sorted(builds, key=lambda name: parse_build(name) or name)
        ),
        "]",
    ]
    return "\n".join(lines)


def code_rows(torch: str, build: Build, platform: str, insides: Insides, catalog: Catalog) -> list[str]:
    """Where a wheel's own code differs from what the catalog says of its build, and the row that says so.

    AMD's wheels hold no code for GPUs: that is in packages of their own.
    """
    if build.kind is Kind.CUDA:
        name, table, values = "capabilities", "architectures", [_dotted(code) for code in insides.codes]
        known = catalog.architectures(build, Version(torch), platform)
        listed = [f"{major}.{minor}" for major, minor in known.codes] if known else []
    elif build.kind is Kind.ROCM and not build.is_amds:
        name, table = "gfx", "rocm"
        own = set(insides.codes) & set(insides.rocblas) if insides.rocblas else set(insides.codes)
        values, codes = sorted(own, key=_numbers), catalog.gfx(build, Version(torch))
        listed = list(codes.codes) if codes else []
    else:
        return []
    lines = [
        f"it has code for {_words(more)}, in the catalog not" for more in [set(values) - set(listed)] if more
    ]
    lines += [
        f"it has no code for {_words(less)}, in the catalog it has"
        for less in [set(listed) - set(values)]
        if less
    ]
    if not lines:
        return []
    where = [
        f"platform = {json.dumps(platform)}",
        f"torch = {json.dumps([torch, torch])}",
        'evidence = "binary"',
    ]
    row = [f"[[{table}]]", f"build = {json.dumps(build.name)}", *(where if table == "architectures" else ())]
    return [*lines, "", *row, f"{name} = {json.dumps(values)}", 'source = "bin"']


def _dotted(code: str) -> str:
    """The capability that torch calls "sm_90a", as "9.0"."""
    digits = code.removeprefix("sm_").rstrip("af")
    return f"{digits[:-1]}.{digits[-1:]}"


def _by_key(seen: Iterable[SeenWheel]) -> dict[_Key, _Wheels]:
    found: dict[_Key, _Wheels] = defaultdict(_Wheels)
    for wheel in seen:
        wheels = found[wheel.torch, wheel.build, wheel.platform, wheel.is_pypi]
        wheels.pythons.add(wheel.python)
        wheels.tags |= wheel.platform_tags
        wheels.vendor = wheel.vendor
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
