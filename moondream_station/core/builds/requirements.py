"""Reads requirement lines: names, extras, versions, markers and hashes, nothing else.

A backend's requirements.txt comes from outside. Options, paths, URLs and further files in it could make an
installer run foreign code or ask foreign servers, so they are refused; options that point at PyTorch's index
are only superfluous, because the station chooses the build, and are ignored with a warning.
"""

from __future__ import annotations

import codecs
import locale
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from moondream_station.core.facts.errors import RequirementsUnsafe, UsageError
from moondream_station.core.facts.redact import redact_text

FAMILY: frozenset[str] = frozenset({
    "fbgemm-gpu", "fbgemm-gpu-genai", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "torch",
    "torch-tensorrt", "torchao", "torcharrow", "torchaudio", "torchcodec", "torchcsprng", "torchdistx",
    "torchrec", "torchserve", "torchtext", "torchtune", "torchvision", "triton", "triton-rocm", "triton-xpu",
    "xformers",
})  # fmt: skip
"""Packages that come from PyTorch's index alone (uv's list, crates/uv-torch/src/backend.rs)."""

MAX_LINES = 5_000
MAX_LINE_CHARACTERS = 16_384
MAX_CHARACTERS = 1 << 20

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODING = re.compile(rb"#.*coding[:=]\s*([-\w.]+)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_HASH = re.compile(r"\s--hash(?:=|\s+)(\S+)")
_SHA256 = re.compile(r"sha256:([0-9a-fA-F]{64})")
_INDEX_OPTION = re.compile(
    r"(?:--index-url|--extra-index-url|--pypi-url|--find-links|-i|-f)(?:\s*=\s*|\s+|(?=h))(\S+)"
)
_PYTORCH_INDEX = re.compile(
    r"https?://(?:[^/@\s]*@)?(?:download(?:-r2)?\.pytorch\.org(?:[:/]|$)|\S*/whl/(?:nightly/|test/)?"
    r"(?:cpu|cu[0-9]{2,3}|rocm[0-9.]+|xpu)(?:[/?#]|$))"
)
_NESTED = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s+)(\S+)")
_ARCHIVE = (
    ".whl", ".zip", ".gz", ".tgz", ".tar", ".bz2", ".tbz", ".xz", ".txz", ".tlz", ".lz", ".lzma", ".egg",
)  # fmt: skip
_SHOWN_CHARACTERS = 160

_SOURCES = (".tar.gz", ".zip")  # how archives of sources end: PEP 625, and what was usual before


@dataclass(frozen=True, slots=True)
class Allowances:
    """What may be in a requirements file beside names: packages by a URL, and contents of further files.

    `builds` are packages that may be built from source, where they have no wheel that fits.
    """

    builds: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)

    def check_url(self, item: Requirement) -> None:
        """Raises InvalidRequirement with the reason, where a requirement's URL is not allowed."""
        try:
            parts = urlsplit(item.url or "")
        except ValueError as error:
            raise InvalidRequirement(f"its URL is not valid ({error})") from error
        name, filename = canonicalize_name(item.name), filename_of(item.url or "")
        if name not in self.urls:
            why = "URLs are not accepted unless the manifest allows the package by name"
        elif parts.scheme not in {"https", "http"}:
            why = "only http and https URLs can be allowed, because others can't be locked"
        elif "@" in parts.netloc:
            why = "a URL must not hold credentials; put them into netrc"
        elif not filename.endswith((".whl", *_SOURCES)):
            why = "a URL must name a wheel or a source archive"
        elif not filename.endswith(".whl") and name not in self.builds:
            why = "it is not a wheel, and the manifest does not allow building it from source"
        else:
            return
        raise InvalidRequirement(why)


NOTHING = Allowances()


def filename_of(url: str) -> str:
    """The name of the file that a URL names."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


@dataclass(frozen=True)
class Requirements:
    """What a backend, or a person, requires, in its order and without repetitions.

    Beside each item stand its text in one spelling ("torch>=2.7,<3") and its sha256 hashes, lower case and
    mostly none. `bounds` on torch's family ask for nothing by themselves: they are the user's constraints.
    """

    items: tuple[Requirement, ...] = ()
    texts: tuple[str, ...] = ()
    hashes: tuple[tuple[str, ...], ...] = ()
    origin: str = ""
    warnings: tuple[str, ...] = ()
    builds: frozenset[str] = frozenset()
    bounds: tuple[Requirement, ...] = ()

    @property
    def mentions_torch(self) -> bool:
        """Whether any of them is of PyTorch's family, whatever its marker."""
        return bool(self.of_family().items)

    def applicable(self, markers: Mapping[str, str]) -> Requirements:
        """Those whose marker holds in an environment (`Target.markers`), bounds too."""

        def holds(item: Requirement) -> bool:
            return item.marker is None or item.marker.evaluate({**markers, "extra": ""})

        return replace(self.where(holds), bounds=tuple(filter(holds, self.bounds)))

    def of_family(self) -> Requirements:
        """Those that PyTorch's index serves."""
        return self.where(lambda item: canonicalize_name(item.name) in FAMILY)

    def where(self, is_kept: Callable[[Requirement], bool]) -> Requirements:
        """Those that are kept, with what was written for each."""
        kept = [
            (item, text, hashes)
            for item, text, hashes in zip(self.items, self.texts, self.hashes, strict=True)
            if is_kept(item)
        ]
        items, texts, hashes = zip(*kept, strict=True) if kept else ((), (), ())
        return replace(self, items=items, texts=texts, hashes=hashes)


def decode_requirements(content: bytes) -> str:
    """The text of a requirements file, as pip decodes it (`pip._internal.req.req_file`, 25.0).

    That is by its byte order mark, by a PEP 263 line among the first two, as UTF-8, or as the system's locale
    says (PowerShell's `pip freeze > requirements.txt` writes UTF-16). ValueError, whose words follow a colon.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decoded(content.removeprefix(mark), encoding)
    for line in content.split(b"\n")[:2]:
        if declared := _CODING.match(line):
            return _decoded(content, declared[1].decode("ascii"))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _decoded(content, locale.getpreferredencoding(do_setlocale=False))


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"it is not {encoding.upper()} text") from error


def parse_requirements(lines: Iterable[str], *, origin: str, allowed: Allowances = NOTHING) -> Requirements:
    """Reads the lines of a requirements file, with or without their ends; a byte order mark is skipped.

    RequirementsUnsafe names the line that asks for something else than names, extras, versions, markers,
    sha256 hashes and what is allowed beside.
    """
    collected: dict[str, tuple[Requirement, tuple[str, ...]]] = {}
    warnings: list[str] = []
    for place, number, line in _all_lines(lines, origin, allowed):
        if line.startswith("-"):
            warnings.append(_dropped_option(line, place, number))
            continue
        try:
            item, text, hashes = _parse_line(line, allowed)
        except InvalidRequirement as error:
            raise _unsafe(place, number, line, str(error).splitlines()[0]) from error
        known = collected.get(text)
        collected[text] = (item, tuple(dict.fromkeys((*(known[1] if known else ()), *hashes))))
    return Requirements(
        items=tuple(item for item, _ in collected.values()),
        texts=tuple(collected),
        hashes=tuple(hashes for _, hashes in collected.values()),
        origin=origin,
        warnings=tuple(warnings),
        builds=allowed.builds,
    )


def parse_requirement_args(args: Iterable[str]) -> Requirements:
    """Reads requirements given on a command line, one an argument; UsageError where one is invalid."""
    texts: dict[str, Requirement] = {}
    for argument in args:
        try:
            item, text = _parse_requirement(argument)
        except InvalidRequirement as error:
            raise UsageError(
                f"{_shown(argument)!r} is not a valid requirement: {str(error).splitlines()[0]}",
                hint="Give a name with versions, such as 'torch>=2.7.0'.",
            ) from error
        texts[text] = item
    return Requirements(
        items=tuple(texts.values()), texts=tuple(texts), hashes=((),) * len(texts), origin="the command line"
    )


def _all_lines(lines: Iterable[str], origin: str, allowed: Allowances) -> Iterator[tuple[str, int, str]]:
    """The lines of a file and of those that it names and may; each with its file's name and its number."""
    seen: set[str] = set()
    waiting = [(origin, lines)]
    while waiting:
        place, content = waiting.pop(0)
        for number, line in _logical_lines(content, place):
            nested = _NESTED.fullmatch(line)
            if nested is None:
                yield place, number, line
            elif nested[1] not in allowed.files:
                raise _unsafe(place, number, line, "other files are read only if the manifest names them")
            elif nested[1] not in seen:
                seen.add(nested[1])
                waiting.append((f"{nested[1]} beside {origin}", allowed.files[nested[1]].splitlines()))


def _logical_lines(lines: Iterable[str], origin: str) -> Iterator[tuple[int, str]]:
    """Joins continued lines and takes comments out, as pip does; yields each one's first number too."""
    pending: list[str] = []
    started = size = 0
    for number, raw in enumerate(lines, start=1):
        line = (raw.removeprefix("\ufeff") if number == 1 else raw).rstrip("\r\n")
        size += len(line)
        if number > MAX_LINES or size > MAX_CHARACTERS or len(line) > MAX_LINE_CHARACTERS:
            raise _unsafe(origin, number, line, "the file is too large")
        started = started or number
        comment = _COMMENT.match(line) is not None
        if line.endswith("\\") and not comment:
            pending.append(line.rstrip("\\"))
            continue
        pending.append(f" {line}" if comment else line)
        if joined := _COMMENT.sub("", "".join(pending)).strip():
            yield started, joined
        pending, started = [], 0
    if joined := _COMMENT.sub("", "".join(pending)).strip():
        yield started, joined


def _parse_line(line: str, allowed: Allowances) -> tuple[Requirement, str, tuple[str, ...]]:
    hashes = [_SHA256.fullmatch(value) for value in _HASH.findall(line)]
    if None in hashes:
        raise InvalidRequirement("only sha256 hashes are accepted")
    bare = _HASH.sub("", line)
    if re.search(r"\s--?[A-Za-z]", bare):
        raise InvalidRequirement("options other than --hash are not accepted")
    return *_parse_requirement(bare, allowed), tuple(found[1].lower() for found in hashes if found)


def _parse_requirement(text: str, allowed: Allowances = NOTHING) -> tuple[Requirement, str]:
    """A requirement, and its text in one spelling with its version clauses in the order they were written."""
    item = Requirement(text)
    if item.url is not None and canonicalize_name(item.name) in FAMILY:
        raise InvalidRequirement("torch and its companions come from the build that the station chooses")
    if item.url is not None:
        allowed.check_url(item)
    if item.name.lower().endswith(_ARCHIVE):
        raise InvalidRequirement("files are not accepted, only names and versions")
    _check_marker(item)
    extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
    marker = f"; {item.marker}" if item.marker else ""
    if item.url is not None:
        return item, f"{canonicalize_name(item.name)}{extras} @ {item.url}{f' {marker}' if marker else ''}"
    return item, f"{canonicalize_name(item.name)}{extras}{_specifier(item, text)}{marker}"


def _check_marker(item: Requirement) -> None:
    """Some markers parse and have no meaning anywhere: sys_platform ~= "x"."""
    if item.marker is None:
        return
    try:
        item.marker.evaluate({"extra": ""})
    except (UndefinedComparison, UndefinedEnvironmentName) as error:
        raise InvalidRequirement(f"its marker can't be evaluated: {error}") from error


def _specifier(item: Requirement, text: str) -> str:
    clauses = {str(clause) for clause in item.specifier}
    after_name = re.sub(r"^[^\[(<>=!~;]*(\[[^\]]*\])?", "", text.split(";", maxsplit=1)[0])
    written = re.split(r"\s*,\s*", after_name.strip(" ()"))
    in_order = [re.sub(r"\s+", "", clause) for clause in written if clause]
    return ",".join(in_order) if set(in_order) == clauses else str(item.specifier)


def _dropped_option(line: str, origin: str, number: int) -> str:
    match = _INDEX_OPTION.fullmatch(line)
    if match is None or not _PYTORCH_INDEX.match(match[1].strip("'\"")):
        raise _unsafe(origin, number, line, _why_never(line))
    why = "the station chooses PyTorch's index for this machine"
    return f"{origin}, line {number}: {_shown(line)!r} is ignored: {why}."


def _why_never(line: str) -> str:
    if line.startswith(("-e", "--editable")):
        return "an editable installation would change with its folder; an environment never changes"
    if line.startswith(("-c", "--constraint")):
        return "constraints are the user's to set"
    return "options are not accepted: where packages come from is the user's to set"


def _unsafe(origin: str, number: int, line: str, why: str) -> RequirementsUnsafe:
    return RequirementsUnsafe(
        f"{origin}, line {number}: {_shown(line)!r} is not accepted: {_shown(why)}",
        hint="Requirements may hold names, extras, versions, markers and sha256 hashes. For a backend's, see"
        " `allow` in docs/reference/manifest.md.",
    )


def _shown(text: str) -> str:
    clean = redact_text(text.strip())
    return clean if len(clean) <= _SHOWN_CHARACTERS else f"{clean[:_SHOWN_CHARACTERS]}…"
