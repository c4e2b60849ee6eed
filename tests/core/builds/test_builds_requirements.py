"""Requirement lines: what is accepted, what is left out, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement

from moondream_station.core.builds.offers import target_of
from moondream_station.core.builds.requirements import (
    MAX_CHARACTERS,
    MAX_LINES,
    Allowances,
    parse_requirement_args,
    parse_requirements,
)
from moondream_station.core.facts.errors import RequirementsUnsafe, UsageError
from support.snapshots import linux, windows

HASH = "a" * 64
OTHER_HASH = "b" * 64


def test_lines_are_read_as_pip_reads_them() -> None:
    """A byte order mark, CRLF, comments, continued lines, blank lines and parentheses."""
    text = (
        "\ufeff# a backend\r\n"
        "Torch >= 2.4 , <2.6   # newer ones fail\r\n"
        "\r\n"
        "pillow \\\r\n"
        "  >=9\r\n"
        "numpy[b,a] (>1,<3); python_version < '3.13'\r\n"
    )
    read = parse_requirements(text.splitlines(keepends=True), origin="requirements.txt")
    assert read.texts == (
        "torch>=2.4,<2.6",
        "pillow>=9",
        'numpy[a,b]>1,<3; python_version < "3.13"',
    )
    assert read.warnings == ()


def test_a_comment_ends_a_continued_line() -> None:
    """As in pip, a line that is a comment does not go on."""
    read = parse_requirements(["torch \\", "# not part of it \\", "numpy"], origin="r")
    assert read.texts == ("torch", "numpy")


def test_hashes_stay_with_their_requirement() -> None:
    """Several hashes, on lines of their own, as pip-compile writes them."""
    lines = [
        "torch==2.7.0 \\",
        f"    --hash=sha256:{HASH.upper()} \\",
        f"    --hash sha256:{OTHER_HASH}",
        "numpy",
    ]
    read = parse_requirements(lines, origin="r")
    assert read.texts == ("torch==2.7.0", "numpy")
    assert read.hashes == ((HASH, OTHER_HASH), ())


def test_repeated_requirements_count_once() -> None:
    """The same line twice is one requirement with the hashes of both."""
    read = parse_requirements(
        [f"torch==2.7.0 --hash=sha256:{HASH}", "Torch == 2.7.0", "torch>=2"], origin="r"
    )
    assert read.texts == ("torch==2.7.0", "torch>=2")
    assert read.hashes == ((HASH,), ())


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://download.pytorch.org/whl/cu118",
        "--extra-index-url=https://download.pytorch.org/whl/cpu",
        "-i https://download.pytorch.org/whl/nightly/cu130",
        "-f https://download.pytorch.org/whl/torch_stable.html",
        "--find-links 'https://mirror.example/pytorch/whl/rocm7.2/'",
        "--extra-index-url https://user:secret@mirror.example/whl/cu126",
    ],
)
def test_options_for_pytorchs_index_are_left_out_with_a_warning(line: str) -> None:
    """The station chooses that index itself; the warning names the line, without credentials."""
    read = parse_requirements(["torch", line], origin="requirements.txt")
    assert read.texts == ("torch",)
    (warning,) = read.warnings
    assert warning.startswith("requirements.txt, line 2: ")
    assert "secret" not in warning


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-r other.txt",
        "-c constraints.txt",
        "--pre",
        "--no-index",
        "--trusted-host example.org",
        "--index-url https://example.org/simple",
        "--extra-index-url https://example.org/download.pytorch.org/whl",
        "-i https://download.pytorch.org.example.org/simple",
        "--index-url https://download.pytorch.org/whl/cpu --pre",
        "--find-links /srv/wheels",
        "./local",
        "../local",
        "/srv/torch",
        "torch-2.7.0-cp311-cp311-linux_x86_64.whl",
        "package.tar.gz",
        "C:\\wheels\\torch",
        "torch @ https://example.org/torch.whl",
        "torch @ file:///srv/torch.whl",
        "https://example.org/torch.whl",
        "git+https://example.org/torch",
        "torch --global-option=x",
        "torch --config-settings=a=b",
        "torch -e .",
        "torch==2.7.0 --hash=md5:d41d8cd98f00b204e9800998ecf8427e",
        "torch==2.7.0 --hash=sha256:abc",
        "${TORCH}",
        "torch=2.7",
        "torch; sys_platform ~= 'x'",
        "torch; 'x' in extras",
        "torch\x00",
    ],
)
def test_everything_else_is_refused_with_file_line_and_text(line: str) -> None:
    """It could run foreign code, ask foreign servers, or is no requirement."""
    with pytest.raises(RequirementsUnsafe) as raised:
        parse_requirements(["numpy", "", line], origin="backend/requirements.txt")
    assert raised.value.message.startswith("backend/requirements.txt, line 3: ")
    assert raised.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "torch @ https://user:s3cret@example.org/torch.whl",
        "git+https://user:s3cret@example.org/x@v1",
        "--index-url https://user:s3/cret@example.org/simple?token=s3cret",
        "https://s3cret@example.org/x.whl",
    ],
)
def test_no_credential_is_ever_shown(line: str) -> None:
    """Neither in the message nor in its hint."""
    with pytest.raises(RequirementsUnsafe) as raised:
        parse_requirements([line], origin="r")
    assert "s3cret" not in f"{raised.value.message} {raised.value.hint}"
    assert "cret@" not in raised.value.message


@pytest.mark.parametrize("lines", [["numpy"] * (MAX_LINES + 1), ["#" * 10_000] * 200, ["x" * 20_000]])
def test_too_much_is_refused(lines: list[str]) -> None:
    """A file of requirements is small."""
    assert sum(map(len, lines)) > MAX_CHARACTERS or len(lines) > MAX_LINES or len(lines[0]) > 16_384
    with pytest.raises(RequirementsUnsafe, match="too large"):
        parse_requirements(lines, origin="r")


def test_a_line_that_is_shown_is_cut() -> None:
    """A message stays a sentence."""
    with pytest.raises(RequirementsUnsafe) as raised:
        parse_requirements(["=" * 10_000], origin="r")
    assert len(raised.value.message) < 600


@given(st.lists(st.text(max_size=60), max_size=20))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    """Nothing but a refusal comes out, and what is read is read the same again."""
    try:
        read = parse_requirements(lines, origin="r")
    except RequirementsUnsafe:
        return
    assert parse_requirements(read.texts, origin="r").texts == read.texts


def test_requirements_know_whether_torch_is_among_them() -> None:
    """Any of the family counts, also for another platform."""
    assert parse_requirements(["Torch_Audio"], origin="r").mentions_torch is False
    assert parse_requirements(["TorchAudio; sys_platform == 'win32'"], origin="r").mentions_torch
    assert not parse_requirements(["transformers"], origin="r").mentions_torch


def test_markers_choose_what_applies_to_a_target() -> None:
    """Two bounds for two systems, and a requirement of an extra that nobody asked for."""
    read = parse_requirements(
        ["torch<2.6; sys_platform == 'win32'", "torch>=2.7; sys_platform != 'win32'", "numpy; extra == 'x'"],
        origin="r",
    )
    assert read.applicable(target_of(linux(), "3.12.3").markers).texts == (
        'torch>=2.7; sys_platform != "win32"',
    )
    assert read.applicable(target_of(windows(), "3.12.3").markers).texts == (
        'torch<2.6; sys_platform == "win32"',
    )


def test_arguments_are_requirements_too() -> None:
    """As a person gives them to `plan`."""
    assert parse_requirement_args(["torch>=2.7.0", "torchvision"]).texts == (
        "torch>=2.7.0",
        "torchvision",
    )


@pytest.mark.parametrize("argument", ["torch=2", "-r x", "./torch", "torch @ https://example.org/x", ""])
def test_an_argument_that_is_no_requirement_is_a_mistake(argument: str) -> None:
    """Exit code 2, with the reason."""
    with pytest.raises(UsageError) as raised:
        parse_requirement_args([argument])
    assert isinstance(raised.value.__cause__, InvalidRequirement)


ALLOWED = Allowances(
    builds=frozenset({"old"}),
    urls=frozenset({"ours", "old", "torch"}),
    files={"more.txt": "numpy\n-r more.txt\n-r base.txt", "base.txt": "pillow; sys_platform == 'linux'"},
)


def test_what_the_manifest_allows_is_read() -> None:
    """URLs of wheels, of sources that may be built, and further files, each of which is read once."""
    lines = [
        "Ours[all] @ https://example.org/ours-1.0-py3-none-any.whl ; python_version > '3'",
        f"old @ https://example.org/old-1.0.tar.gz --hash=sha256:{HASH}",
        "-r more.txt",
        "--requirement=more.txt",
    ]
    read = parse_requirements(lines, origin="requirements.txt", allowed=ALLOWED)
    assert read.texts == (
        'ours[all] @ https://example.org/ours-1.0-py3-none-any.whl ; python_version > "3"',
        "old @ https://example.org/old-1.0.tar.gz",
        "numpy",
        'pillow; sys_platform == "linux"',
    )
    assert read.hashes[1] == (HASH,)
    assert read.builds == {"old"}
    assert read.applicable({"sys_platform": "win32", "python_version": "3.12"}).builds == {"old"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "other @ https://example.org/other-1.0-py3-none-any.whl",
            "unless the manifest allows the package by name",
        ),
        ("torch @ https://example.org/torch-2.7.0-py3-none-any.whl", "the build that the station chooses"),
        ("ours @ https://example.org/ours-1.0.tar.gz", "does not allow building it from source"),
        ("ours @ https://example.org/ours", "must name a wheel or a source archive"),
        ("ours @ git+https://example.org/ours@v1", "only http and https"),
        ("ours @ file:///srv/ours-1.0-py3-none-any.whl", "only http and https"),
        ("ours @ https://me:secret@example.org/ours-1.0-py3-none-any.whl", "must not hold credentials"),
        ("-r others.txt", "only if the manifest names them"),
        ("-r ../more.txt", "only if the manifest names them"),
        ("-c more.txt", "the user's to set"),
        ("-e .", "an environment never changes"),
        ("--pre", "the user's to set"),
    ],
)
def test_what_goes_beyond_is_refused_with_the_reason(line: str, why: str) -> None:
    """Allowing one thing allows nothing else; what can't be allowed says why."""
    with pytest.raises(RequirementsUnsafe) as raised:
        parse_requirements(["numpy", line], origin="requirements.txt", allowed=ALLOWED)
    assert raised.value.message.startswith("requirements.txt, line 2: ")
    assert why in raised.value.message
    assert "secret" not in raised.value.message


def test_a_further_file_is_held_to_the_same_rules() -> None:
    """The line that is refused is named with its own file and number."""
    allowed = Allowances(files={"more.txt": "numpy\n-e ."})
    with pytest.raises(RequirementsUnsafe, match=r"^more\.txt beside requirements\.txt, line 2: "):
        parse_requirements(["-r more.txt"], origin="requirements.txt", allowed=allowed)
