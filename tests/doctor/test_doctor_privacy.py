"""Reports are pasted into public places: nothing private is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.doctor.examination import examine
from moondream_station.doctor.report import (
    ASCII,
    Finding,
    Remedy,
    cleaner,
    ok,
    report_text,
    report_to_json,
    warning,
)
from support import machines as m
from support.environments import made_home
from support.patients import Here, install, site_packages_of

ENVIRON: Mapping[str, str] = {
    "HOME": "/home/annika",
    "USER": "annika",
    "HOSTNAME": "annikas-laptop",
    "HF_TOKEN": "hf_tokentokentoken",
    "SSH_AUTH_SOCK": "/run/user/1000/keyring/ssh",
}


def cleaned(text: str, root: str = "/home/annika/.moondream-station") -> str:
    """A text as it is shown."""
    return cleaner(Home(root=Path(root)), ENVIRON)(ok(text)).summary


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/annika/.moondream-station/config.json", "~/.moondream-station/config.json"),
        ("annika on annikas-laptop", "USER on HOST"),
        ("token hf_tokentokentoken is wrong", "token *** is wrong"),
        ("https://ann:pw@index.example/secret/simple: no", "https://index.example/…: no"),
        ("https://download.pytorch.org/whl/cpu is public", "https://download.pytorch.org/whl/cpu is public"),
        ("http://127.0.0.1:2020 answers", "http://127.0.0.1:2020 answers"),
        ("The Python is gone: /srv/teams/hidden/bin/python.", "The Python is gone: <path>"),
        ("/usr/bin/nvcc and /dev/nvidia0 and /proc/driver/nvidia", None),
        ("torch and/or 3/4 of it, `http`/`https`", None),
        (r"D:\Secret\wheels is gone", "<path> is gone"),
        ("GPU-7f3c5a10-1111-2222-3333-444455556666", "GPU-00000000"),
    ],
)
def test_what_is_private_is_left_out(text: str, shown: str | None) -> None:
    """And what is not stays as it is."""
    assert cleaned(text) == (text if shown is None else shown)


def test_a_home_elsewhere_is_shown_by_its_variable() -> None:
    """So that a command with it can still be copied."""
    assert cleaned("/srv/station/active.json is torn", "/srv/station") == (
        "$MOONDREAM_STATION_HOME/active.json is torn"
    )


def test_every_text_of_a_verdict_is_cleaned_and_commands_stay() -> None:
    """Commands are the doctor's own words."""
    clean = cleaner(Home(root=Path("/srv/station")), ENVIRON)
    command = 'sudo usermod -aG video,render "$USER"'
    verdict = clean(warning("annika", "ask annika", command, detail="annika\nhf_tokentokentoken"))
    assert verdict == Finding(
        status=verdict.status,
        summary="USER",
        detail="USER\n***",
        remedy=Remedy(text="ask USER", commands=(command,)),
    )


@given(st.text())
def test_any_text_can_be_cleaned(text: str) -> None:
    """What workers write is anything at all."""
    assert "hf_tokentokentoken" not in cleaned(text + "hf_tokentokentoken" + text)


@pytest.mark.anyio
async def test_planted_secrets_are_in_no_output(tmp_path: Path) -> None:
    """In variables, indexes, proxies, paths, logs and settings that can't be used: none comes out."""
    secret = "pl4nted"  # noqa: S105  it must be found nowhere
    home = made_home(tmp_path / f"{secret}-folder")
    committed = await install(home)
    (site_packages_of(committed) / "torch" / "cuda.py").unlink()
    (home.logs / "selftest.log").write_text(f"token={secret}-token at /opt/{secret}/x\n")
    environ = {
        "HOME": str(tmp_path / f"{secret}-home"),
        "USER": f"{secret}-user",
        "HOSTNAME": f"{secret}-host",
        "API_TOKEN": f"{secret}-token",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"http://{secret}:{secret}@127.0.0.1:9/{secret}/simple?auth={secret}",
        "PIP_EXTRA_INDEX_URL": f"http://127.0.0.1:9/-/{secret}/simple",
        "PIP_FIND_LINKS": f"/srv/{secret}/wheels",
        "HTTPS_PROXY": f"http://{secret}:{secret}@127.0.0.1:9",
        "PIP_CERT": f"/srv/{secret}/ca.pem",
        "CUDA_VISIBLE_DEVICES": "GPU-7f3c5a10-1111-2222-3333-444455556666",
        "MOONDREAM_STATION_HOME": str(home.root),
    }
    settings = Settings(
        torch_index=f"http://{secret}:{secret}@127.0.0.1:9/{secret}/whl", manifest=f"/srv/{secret}/m.json"
    )
    for manifest in (settings.manifest, None):
        report = await examine(
            home=home,
            settings=replace(settings, manifest=manifest),
            environ=environ,
            machine=Here(m.nvidia_linux(env={"CUDA_VISIBLE_DEVICES": environ["CUDA_VISIBLE_DEVICES"]})),
        )
        for output in (json.dumps(report_to_json(report)), report_text(report, ASCII)):
            assert secret not in output
            assert "7f3c5a10" not in output
