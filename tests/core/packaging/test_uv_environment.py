"""What uv is told of the user's packaging set-up, by uv itself where that can be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import uv

from moondream_station.core.packaging.packaging_config import NO_INDEX_URL, PackagingConfig, is_torch_index
from support.torch_index import TorchIndex
from support.wheels import Wheel, module_wheel

_TORCH = "https://download.pytorch.org/whl"


def test_nothing_set_means_pypi_and_the_systems_certificates() -> None:
    """Uv's own defaults, said aloud, but for the certificates and its patience with a silent index."""
    assert PackagingConfig().to_uv_environment(torch_index=_TORCH) == {
        "UV_DEFAULT_INDEX": "https://pypi.org/simple",
        "UV_SYSTEM_CERTS": "1",
        "UV_HTTP_TIMEOUT": "16",
        "UV_HTTP_RETRIES": "2",
    }


def test_every_setting_has_its_variable(tmp_path: Path) -> None:
    """Separators are uv's: blanks for indexes, commas for find-links."""
    cert = tmp_path / "ca.pem"
    cert.touch()
    config = PackagingConfig(
        index_url="https://a.example",
        extra_index_urls=("https://b.example", "https://c.example"),
        find_links=("file:///links", "https://d.example"),
        index_strategy="unsafe-best-match",
        keyring_provider="subprocess",
        cert=cert,
        client_cert=tmp_path / "client.pem",
        proxies={"https": "http://proxy.example:1"},
        no_proxy=("e.example", "f.example"),
        timeout_seconds=180.0,
        connect_timeout_seconds=5.0,
        retries=0,
        trusted_hosts=("g.example", "h.example"),
        netrc=tmp_path / "netrc",
    )
    assert config.to_uv_environment(torch_index=_TORCH) == {
        "UV_DEFAULT_INDEX": "https://a.example",
        "UV_INDEX": "https://b.example https://c.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "file:///links,https://d.example",
        "UV_KEYRING_PROVIDER": "subprocess",
        "UV_INSECURE_HOST": "g.example h.example",
        "SSL_CERT_FILE": str(cert),
        "SSL_CLIENT_CERT": str(tmp_path / "client.pem"),
        "HTTPS_PROXY": "http://proxy.example:1",
        "https_proxy": "http://proxy.example:1",
        "NO_PROXY": "e.example,f.example",
        "no_proxy": "e.example,f.example",
        "NETRC": str(tmp_path / "netrc"),
        "UV_HTTP_TIMEOUT": "180",
        "UV_HTTP_CONNECT_TIMEOUT": "5",
        "UV_HTTP_RETRIES": "0",
    }


def test_a_folder_of_certificates_has_its_own_variable(tmp_path: Path) -> None:
    """OpenSSL tells files and folders apart."""
    assert PackagingConfig(cert=tmp_path).to_uv_environment(torch_index=_TORCH)["SSL_CERT_DIR"] == str(
        tmp_path
    )


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("https://download.pytorch.org/whl/cu126", True),
        ("https://me:secret@download.pytorch.org/whl/", True),
        ("https://mirror.example/pytorch/whl/nightly/cu128", True),
        ("https://mirror.example/whl/rocm7.2/", True),
        ("https://mirror.example/torch-here", False),
        ("https://pypi.org/simple", False),
        ("https://mirror.example/whl/simple", False),
    ],
)
def test_pytorch_indexes_are_known_by_their_path(url: str, *, is_one: bool) -> None:
    """Mirrors keep the last part of the path."""
    assert is_torch_index(url, _TORCH) is is_one
    assert is_torch_index("https://mirror.example/torch-here/cu126", "https://mirror.example/torch-here/")


def test_a_pytorch_index_is_not_asked_for_ordinary_packages() -> None:
    """It has old copies of some, which uv would take; where it was the only index, PyPI stands in."""
    config = PackagingConfig(
        index_url="https://a.example", extra_index_urls=(f"{_TORCH}/cu126", "https://b.example")
    )
    assert config.to_uv_environment(torch_index=_TORCH)["UV_INDEX"] == "https://b.example"
    only = PackagingConfig(index_url=f"{_TORCH}/cpu")
    assert only.to_uv_environment(torch_index=_TORCH)["UV_DEFAULT_INDEX"] == "https://pypi.org/simple"
    first = PackagingConfig(index_url=f"{_TORCH}/cpu", extra_index_urls=("https://b.example",))
    assert first.to_uv_environment(torch_index=_TORCH)["UV_DEFAULT_INDEX"] == "https://b.example"


def _compile(config: PackagingConfig, requirement: str, folder: Path) -> str:
    """What uv resolves a requirement to."""
    variables = config.to_uv_environment(torch_index=_TORCH)
    argv = [uv.find_uv_bin(), "pip", "compile", "-q", "--no-config", "--no-header", "--no-annotate", "-"]
    argv += ["--only-binary", ":all:", "-p", sys.executable, "--cache-dir", str(folder / "cache")]
    completed = subprocess.run(
        argv,
        input=requirement,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
    )
    return completed.stdout.strip() if completed.returncode == 0 else completed.stderr


def test_uv_takes_the_best_of_all_indexes_as_pip_does(tmp_path: Path) -> None:
    """An extra index on disk, one on a server, one that is gone, credentials in the URL."""
    with TorchIndex(credentials=("me", "p@ss")) as index:
        index.add_simple(module_wheel("ordinary", "1.0"))
        folder = _index_on_disk(tmp_path, module_wheel("ordinary", "2.0"))
        url = index.simple_url.replace("://", "://me:p%40ss@")
        for default, extra in ((url, folder.as_uri()), (folder.as_uri(), url)):
            config = PackagingConfig(
                index_url=default, extra_index_urls=(extra,), index_strategy="unsafe-best-match"
            )
            assert _compile(config, "ordinary", tmp_path) == "ordinary==2.0"
            assert _compile(config, "ordinary<2", tmp_path) == "ordinary==1.0"


def test_no_index_leaves_uv_find_links(tmp_path: Path) -> None:
    """A folder with a blank in its name; nothing else is asked."""
    links = tmp_path / "my links"
    links.mkdir()
    module_wheel("ordinary", "3.0").write_to(links)
    with TorchIndex() as index:
        index.add_simple(module_wheel("ordinary", "4.0"))
        config = PackagingConfig(index_url=index.simple_url, find_links=(links.as_uri(),), no_index=True)
        assert config.to_uv_environment(torch_index=_TORCH)["UV_DEFAULT_INDEX"] == NO_INDEX_URL
        assert _compile(config, "ordinary", tmp_path) == "ordinary==3.0"
        assert index.requests == ()


def test_uv_goes_through_the_users_proxy(tmp_path: Path) -> None:
    """The index's name need not even resolve."""
    with TorchIndex() as proxy:
        proxy.add_simple(module_wheel("ordinary", "1.0"))
        config = PackagingConfig(index_url="http://packages.invalid/simple", proxies={"http": proxy.address})
        assert _compile(config, "ordinary", tmp_path) == "ordinary==1.0"
        assert all(request.target.startswith("http://packages.invalid/") for request in proxy.requests)


def _index_on_disk(folder: Path, wheel: Wheel) -> Path:
    project = folder / "simple" / wheel.project
    project.mkdir(parents=True)
    wheel.write_to(project)
    link = f'<a href="{wheel.filename}#sha256={wheel.sha256}">{wheel.filename}</a>'
    (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    return folder / "simple"
