"""Which of the station's own variables a child process gets to see.

An allow-list: a secret of another program, or a variable that turns a Python into another one (PYTHONPATH,
PYTHONHOME, PYTHONDONTWRITEBYTECODE, VIRTUAL_ENV), does not travel by accident.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    {
        # who and where
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TMP", "TEMP", "TZ", "LD_LIBRARY_PATH"),
        # locale
        *("LANG", "LANGUAGE"),
        # proxies; programs read either spelling
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        # certificates
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        # where model weights are kept, beside HF_*; the older name of HF_TOKEN
        *("XDG_CACHE_HOME", "TORCH_HOME", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE"),
        *("HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"),
        # which device, beside *_VISIBLE_DEVICES, and how much of it
        *("CUDA_DEVICE_ORDER", "HSA_OVERRIDE_GFX_VERSION", "ZE_AFFINITY_MASK"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    }
)
_PREFIXES = ("LC_", "HF_", "PYTORCH_")
_SUFFIX = "_VISIBLE_DEVICES"

_WINDOWS_NAMES = frozenset(
    {
        # without these programs don't start, or don't find their folders
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS"),
        *("USERPROFILE", "HOMEDRIVE", "HOMEPATH", "USERNAME", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
        *("ALLUSERSPROFILE", "PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432", "COMMONPROGRAMFILES"),
        *("NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_ARCHITEW6432", "PROCESSOR_IDENTIFIER"),
    }
)


def child_environment(environ: Mapping[str, str], **extra: str) -> dict[str, str]:
    """The variables for a child process."""
    passed_on = {
        name: value
        for name, value in environ.items()
        if name in _NAMES
        or name.startswith(_PREFIXES)
        or name.endswith(_SUFFIX)
        # Windows does not tell upper case from lower.
        or name.upper() in _WINDOWS_NAMES
    }
    return passed_on | extra
