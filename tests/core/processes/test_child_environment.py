"""What a child process gets to see of the station's variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.processes.child_process import child_environment


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
        *("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE"),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        *(
            "CUDA_DEVICE_ORDER",
            "HSA_OVERRIDE_GFX_VERSION",
            "HSA_OVERRIDE_GFX_VERSION_1",
            "ZE_AFFINITY_MASK",
            "LD_LIBRARY_PATH",
        ),
        *("CC", "CXX", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
        *("SYSTEMROOT", "SystemRoot", "USERPROFILE", "LOCALAPPDATA", "PATHEXT", "COMSPEC", "TEMP", "TMP"),
    ],
)
def test_what_a_child_needs_is_passed_on(name: str) -> None:
    """Where things are, the locale, the network, devices and compilers to use, and what Windows needs."""
    assert child_environment({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP", "VIRTUAL_ENV"),
        *("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY", "MOONDREAM_STATION_HOME"),
        *("PIP_INDEX_URL", "UV_INDEX", "UV_PYTHON", "LD_PRELOAD", "BASH_ENV"),
    ],
)
def test_what_could_harm_or_leak_is_not(name: str) -> None:
    """Neither what makes a Python another one nor another program's secret travels by accident."""
    assert child_environment({name: "value"}) == {}


@given(st.dictionaries(st.text(), st.text()))
def test_nothing_is_invented_or_changed(environ: dict[str, str]) -> None:
    """What comes through is a part of what was there."""
    assert child_environment(environ).items() <= environ.items()


def test_extra_variables_win() -> None:
    """The caller's own additions come on top, whatever their names are."""
    assert child_environment({"PATH": "/bin", "HOME": "/h"}, PATH="/usr/bin", PYTHONUTF8="1") == {
        "PATH": "/usr/bin",
        "HOME": "/h",
        "PYTHONUTF8": "1",
    }
