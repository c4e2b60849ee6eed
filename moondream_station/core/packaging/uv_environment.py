"""The user's packaging set-up as uv's variables, since uv itself reads none of pip's settings."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.packaging.packaging_config import PYPI_URL, PackagingConfig

_PYTORCH_PATH = re.compile(
    r"/whl(/(nightly|test|lts))*(/(cpu|cu\d+|rocm[\d.]+|xpu|variant)(_pypi_pkg|_full|_cxx11_abi)?)?$"
)

_SILENCE_SECONDS = 48
"""Less than a minute: uv pauses between attempts, and offers may have been asked for there before."""

NO_INDEX_URL = (Path(sys.executable).parent / "no-package-index").as_uri()
"""An index without packages: a folder that is not there. `--no-index` would switch off torch's index too."""


def to_uv_environment(config: PackagingConfig, *, torch_index: str) -> dict[str, str]:
    """The variables that make uv look where the user's set-up says, and nowhere else.

    They belong into a process environment from which every other `UV_…` variable was dropped, for a uv that
    is called with `--no-config`. Credentials are in these values and nowhere on a command line. A PyTorch
    index (`torch_index` or another) among the user's own is left out: it would answer for pillow and numpy
    too, with stale copies (measured: uv takes them).
    """
    indexes = [url for url in config.index_urls if not is_torch_index(url, torch_index)]
    if config.no_index:
        indexes = [NO_INDEX_URL]
    elif not indexes:
        indexes = [PYPI_URL]
    variables: dict[str, str | Path | None] = {
        "UV_DEFAULT_INDEX": indexes[0],
        "UV_INDEX": " ".join(indexes[1:]),
        "UV_INDEX_STRATEGY": config.index_strategy,
        "UV_FIND_LINKS": ",".join(link.replace(",", "%2C") for link in config.find_links),
        "UV_INSECURE_HOST": " ".join(config.trusted_hosts),
        "UV_KEYRING_PROVIDER": config.keyring_provider,
        "SSL_CLIENT_CERT": config.client_cert,
        "NETRC": config.netrc,
        "NO_PROXY": ",".join(config.no_proxy),
        "no_proxy": ",".join(config.no_proxy),
        **_patience(config),
    }
    if config.cert is None:
        variables["UV_SYSTEM_CERTS"] = "1"
    else:
        variables["SSL_CERT_DIR" if config.cert.is_dir() else "SSL_CERT_FILE"] = config.cert
    for scheme, url in config.proxies.items():
        variables[f"{scheme}_proxy"] = variables[f"{scheme.upper()}_PROXY"] = url
    return {name: str(value) for name, value in variables.items() if value}


def _patience(config: PackagingConfig) -> dict[str, str]:
    """How long and how often uv asks a silent address: 60 seconds at most in all, or the user's time limit.

    By itself it asks four times for half a minute each (measured: 126 seconds for an index that hangs).
    """
    attempts = 3 if config.retries is None else config.retries + 1
    seconds = config.timeout_seconds or min(30, max(10, _SILENCE_SECONDS // attempts))
    attempts = min(attempts, int(max(_SILENCE_SECONDS, seconds) // seconds))
    patience = {"UV_HTTP_TIMEOUT": str(max(1, round(seconds))), "UV_HTTP_RETRIES": str(attempts - 1)}
    if config.connect_timeout_seconds is not None:
        patience["UV_HTTP_CONNECT_TIMEOUT"] = str(max(1, round(config.connect_timeout_seconds)))
    return patience


def is_torch_index(url: str, torch_index: str) -> bool:
    """Whether an index is PyTorch's, or the mirror that stands for it, or one of its builds' pages."""
    bare, base = without_credentials(url).rstrip("/"), without_credentials(torch_index).rstrip("/")
    return bare == base or bare.startswith(f"{base}/") or _PYTORCH_PATH.search(bare) is not None
