"""The user's own packaging set-up: indexes, proxies, certificates, credentials, constraints.

It is what `pip config list` shows together with what uv's variables and files say about indexes. Where both
name one thing, variables go before files, and uv's before pip's: uv does the resolving, and whoever set a
variable of its own meant this. Lists (extra indexes, find-links, trusted hosts) are joined across the two.
Nothing of it is ever shown with credentials: the configuration's repr leaves them out.

Constraints are bounds on versions that ask for nothing by themselves. Those on torch's family bound the
choice of the build, and no more: uv is not told of them, because the wheels of the chosen build are all that
it is given of the family.
"""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio.to_thread
from packaging.utils import canonicalize_name

from moondream_station.core.builds.requirements import (
    FAMILY,
    Requirements,
    decode_requirements,
    parse_requirements,
)
from moondream_station.core.facts.errors import RequirementsUnsafe, SettingsInvalid
from moondream_station.core.facts.redact import checked_url, redact_text, redact_url, without_credentials
from moondream_station.core.home.layout import absolute
from moondream_station.core.packaging.user_settings import (
    ETC,
    UvSettings,
    home_folder,
    pip_file_options,
    pip_variables,
    uv_file_settings,
    uv_variables,
)

PYPI_URL = "https://pypi.org/simple"
CONNECT_SECONDS, STALL_SECONDS = 10.0, 30.0
"""How long a server may take to connect, and to go on, where the user says nothing: uv's own limits."""

_PYTORCH_PATH = re.compile(
    r"/whl(/(nightly|test|lts))*(/(cpu|cu\d+|rocm[\d.]+|xpu|variant)(_pypi_pkg|_full|_cxx11_abi)?)?$"
)

_SILENCE_SECONDS = 48
"""Less than a minute: uv pauses between attempts, and offers may have been asked for there before."""

NO_INDEX_URL = (Path(sys.executable).parent / "no-package-index").as_uri()
"""An index without packages: a folder that is not there. `--no-index` would switch off torch's index too."""

_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ENDLESS_SECONDS = 1e9  # "inf" is a number to pip, and none to uv
_TRUE, _FALSE = {"y", "yes", "t", "true", "on", "1"}, {"n", "no", "f", "false", "off", "0"}


@dataclass(frozen=True, kw_only=True, repr=False)
class PackagingConfig:
    """Where packages come from and how to get there. Holds credentials; its repr does not show them.

    Places are `https:`, `http:` or `file:` URLs, and folders exist; proxies are URLs by scheme, "http" and
    "https". `cert` stands in for the system's certificates: a PEM file or a folder of them; those of trusted
    hosts ("name" or "name:port") are not checked. Further indexes count as much as the first, uv's before
    pip's; `index_strategy` is uv's word for how, None for its default. `notes` are sentences about what was
    left out, and why.
    """

    index_url: str = PYPI_URL
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    index_strategy: str | None = None
    keyring_provider: str | None = None
    cert: Path | None = None
    client_cert: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    connect_timeout_seconds: float | None = None
    retries: int | None = None
    trusted_hosts: tuple[str, ...] = ()
    constraints: tuple[Path, ...] = ()
    netrc: Path | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = (f"{item.name}={redact_text(repr(getattr(self, item.name)))}" for item in fields(self))
        return f"PackagingConfig({', '.join(shown)})"

    @property
    def mixes_indexes(self) -> bool:
        """Whether pip looks in more places than the one index that a command names."""
        return bool(self.extra_index_urls or self.find_links)

    @property
    def index_urls(self) -> tuple[str, ...]:
        """Every index that counts, the default one first; none where there shall be none."""
        return () if self.no_index else (self.index_url, *self.extra_index_urls)

    async def within_constraints(self, requirements: Requirements) -> Requirements:
        """Requirements with the user's bounds on torch's family."""
        files = await anyio.to_thread.run_sync(lambda: self._constraints)
        return replace(requirements, bounds=tuple(item for file in files for item in file.of_family().items))

    async def ordinary_constraints(self) -> tuple[str, ...]:
        """The user's constraints on everything but torch's family."""
        files = await anyio.to_thread.run_sync(lambda: self._constraints)
        return tuple(
            text
            for file in files
            for item, text in zip(file.items, file.texts, strict=True)
            if canonicalize_name(item.name) not in FAMILY
        )

    @cached_property
    def _constraints(self) -> tuple[Requirements, ...]:
        return tuple(_read_constraints(path) for path in self.constraints)

    def to_uv_environment(self, *, torch_index: str) -> dict[str, str]:
        """The variables that make uv look where the user's set-up says, and nowhere else.

        They are for a process environment without other `UV_…` variables, and for `--no-config`. Credentials
        are in these values and nowhere on a command line. A PyTorch index (`torch_index` or another) among
        the user's own is left out: it would answer for pillow and numpy too, with stale copies (measured: uv
        takes them).
        """
        indexes = [url for url in self.index_urls if not is_torch_index(url, torch_index)]
        if self.no_index:
            indexes = [NO_INDEX_URL]
        elif not indexes:
            indexes = [PYPI_URL]
        variables: dict[str, str | Path | None] = {
            "UV_DEFAULT_INDEX": indexes[0],
            "UV_INDEX": " ".join(indexes[1:]),
            "UV_INDEX_STRATEGY": self.index_strategy,
            "UV_FIND_LINKS": ",".join(link.replace(",", "%2C") for link in self.find_links),
            "UV_INSECURE_HOST": " ".join(self.trusted_hosts),
            "UV_KEYRING_PROVIDER": self.keyring_provider,
            "SSL_CLIENT_CERT": self.client_cert,
            "NETRC": self.netrc,
            "NO_PROXY": ",".join(self.no_proxy),
            "no_proxy": ",".join(self.no_proxy),
            **self._patience(),
        }
        if self.cert is None:
            variables["UV_SYSTEM_CERTS"] = "1"
        else:
            variables["SSL_CERT_DIR" if self.cert.is_dir() else "SSL_CERT_FILE"] = self.cert
        for scheme, url in self.proxies.items():
            variables[f"{scheme}_proxy"] = variables[f"{scheme.upper()}_PROXY"] = url
        return {name: str(value) for name, value in variables.items() if value}

    def _patience(self) -> dict[str, str]:
        """How long and how often uv asks a silent address: 60 seconds in all, or the user's time limit.

        By itself it asks four times for half a minute each (measured: 126 seconds for an index that hangs).
        """
        attempts = 3 if self.retries is None else self.retries + 1
        seconds = self.timeout_seconds or min(30, max(10, _SILENCE_SECONDS // attempts))
        attempts = min(attempts, int(max(_SILENCE_SECONDS, seconds) // seconds))
        patience = {"UV_HTTP_TIMEOUT": str(max(1, round(seconds))), "UV_HTTP_RETRIES": str(attempts - 1)}
        if self.connect_timeout_seconds is not None:
            patience["UV_HTTP_CONNECT_TIMEOUT"] = str(max(1, round(self.connect_timeout_seconds)))
        return patience


async def load_packaging_config(
    environ: Mapping[str, str],
    *,
    prefix: Path = Path(sys.prefix),
    cwd: Path = Path(),
    platform: str = sys.platform,
    etc: Path = ETC,
) -> PackagingConfig:
    """The user's packaging set-up; `prefix` is the Python environment whose own `pip.conf` counts.

    `SettingsInvalid` where a file or a value can't be understood; pip and uv would refuse it too.
    """
    return await anyio.to_thread.run_sync(_load, environ, prefix, cwd, platform, etc)


async def load_config_of_pip(environ: Mapping[str, str]) -> PackagingConfig:
    """The set-up of pip itself, which knows nothing of what is set for uv."""
    variables = {name: value for name, value in environ.items() if not name.startswith("UV_")}
    return await load_packaging_config({**variables, "UV_NO_CONFIG": "1"})


async def options_for_pip(environ: Mapping[str, str], torch_index: str) -> tuple[str, ...]:
    """What tells pip where other packages than torch's are, as far as that is set for uv alone."""
    config, of_pip = await load_packaging_config(environ), await load_config_of_pip(environ)
    places = [
        *(("--index-url", url) for url in [config.index_url] if url != of_pip.index_url),
        *(("--extra-index-url", url) for url in config.extra_index_urls if url not in of_pip.index_urls),
        *(("--find-links", url) for url in config.find_links if url not in of_pip.find_links),
    ]
    named = [(option, url) for option, url in places if not is_torch_index(url, torch_index)]
    no_index = ("--no-index",) if config.no_index and not of_pip.no_index else ()
    return (*no_index, *(text for option, url in named for text in (option, without_credentials(url))))


def _load(environ: Mapping[str, str], prefix: Path, cwd: Path, platform: str, etc: Path) -> PackagingConfig:
    variables = pip_variables(environ)
    pip = {**pip_file_options(environ, prefix, platform, etc), **variables}
    ours, *files = uv = (uv_variables(environ), *uv_file_settings(environ, platform, etc))
    home = home_folder(environ, platform)
    notes: list[str] = []

    def existing(option: str, what: str, of_uv: Callable[[UvSettings], tuple[str, ...]]) -> tuple[str, ...]:
        places = [*chain(*map(of_uv, uv)), *pip.get(option, "").split()]
        return _existing([_url_of(place, cwd, home) for place in places], what, notes)

    # A variable goes before any file, and within each, uv's before pip's.
    of_files = (settings.default_index for settings in files)
    default = _first(ours.default_index, variables.get("index-url"), *of_files, pip.get("index-url"))
    extras = existing("extra-index-url", "extra index", lambda uv: uv.indexes)
    links = existing("find-links", "find-links location", lambda uv: uv.find_links)
    trusted = [*chain(*(settings.insecure_hosts for settings in uv)), *pip.get("trusted-host", "").split()]
    usual_strategy = "unsafe-best-match" if pip.get("extra-index-url") else None
    keyring = "subprocess" if pip.get("keyring-provider") == "subprocess" else None
    by_scheme, no_proxy = _proxies(environ, pip, uv)
    retries = _number(environ, "UV_HTTP_RETRIES", pip, "retries")
    constraints = {
        text: local_path(text) if "://" in text else _absolute(text, cwd, home)
        for text in pip.get("constraint", "").split()
    }
    names = (".netrc", "_netrc") if platform == "win32" else (".netrc",)
    netrcs = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / name for name in names]
    # Pip's own setting first, then the variables that uv and pip's library read.
    certs = filter(None, (pip.get("cert"), *map(environ.get, _CERTIFICATE_VARIABLES)))
    cert = _certificates((_absolute(text, cwd, home) for text in certs), notes)
    notes += [
        f"The constraints at {redact_url(text)} are ignored: only files are supported."
        for text, path in constraints.items()
        if path is None
    ]
    return PackagingConfig(
        index_url=_url_of(default or PYPI_URL, cwd, home).rstrip("/"),
        extra_index_urls=extras,
        find_links=links,
        no_index=_flag(pip, "no-index") or any(settings.no_index for settings in uv),
        index_strategy=_first(*(settings.index_strategy for settings in uv), usual_strategy),
        keyring_provider=_first(*(settings.keyring_provider for settings in uv), keyring),
        cert=cert,
        client_cert=_absolute(pip["client-cert"], cwd, home) if pip.get("client-cert") else None,
        proxies=by_scheme,
        no_proxy=no_proxy,
        timeout_seconds=_number(environ, "UV_HTTP_TIMEOUT", pip, "timeout"),
        connect_timeout_seconds=_number(environ, "UV_HTTP_CONNECT_TIMEOUT", {}, ""),
        retries=None if retries is None else int(retries),
        trusted_hosts=tuple(dict.fromkeys(trusted)),
        constraints=tuple(path for path in constraints.values() if path is not None),
        netrc=next(filter(Path.is_file, netrcs), None),
        notes=tuple(notes),
    )


def _certificates(paths: Iterable[Path], notes: list[str]) -> Path | None:
    for path in paths:
        if path.exists():
            return path
        notes.append(f"The certificates at {path} do not exist; those of the system are used.")
    return None


def _proxies(
    environ: Mapping[str, str], pip: Mapping[str, str], uv: Iterable[UvSettings]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Pip's proxy for everything; else by scheme what variables say, then uv's files, then the system."""
    proxy_of: dict[str, str] = {}
    for scheme in ("http", "https", "no"):
        names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
        fallback = () if scheme == "no" else ("all_proxy", "ALL_PROXY")
        value = _first(*(environ.get(name) for name in (*names, *fallback)))
        value = value or _first(*(settings.proxies.get(scheme) for settings in uv))
        if value:
            proxy_of[scheme] = value
    if not proxy_of:
        # What macOS and Windows have set for every program; other systems have variables alone.
        of_system: Any = getattr(urllib.request, "getproxies_macosx_sysconf", None)
        proxy_of = dict((of_system or getattr(urllib.request, "getproxies_registry", dict))())
    no_proxy = tuple(host.strip() for host in proxy_of.pop("no", "").split(",") if host.strip())
    if pip.get("proxy"):
        proxy_of = dict.fromkeys(("http", "https"), pip["proxy"])
    by_scheme = {
        scheme: checked_url(url if "://" in url else f"http://{url}", "a proxy")
        for scheme, url in proxy_of.items()
        if scheme in {"http", "https"}
    }
    return by_scheme, no_proxy


def _first(*values: str | None) -> str | None:
    """The first that says something."""
    return next((value for value in values if value), None)


def _flag(pip: Mapping[str, str], option: str) -> bool:
    value = pip.get(option, "no").strip().lower()
    if value not in _TRUE | _FALSE:
        raise _invalid(f"pip's {option}", value, "yes or no")
    return value in _TRUE


def _number(environ: Mapping[str, str], variable: str, pip: Mapping[str, str], option: str) -> float | None:
    name, value = variable, environ.get(variable)
    if not value:
        name, value = f"pip's {option}", pip.get(option)
    try:
        return min(max(0.0, float(value)), _ENDLESS_SECONDS) if value else None
    except ValueError as error:
        raise _invalid(name, value, "a number") from error


def _invalid(name: str, value: str | None, kind: str) -> SettingsInvalid:
    place = "Correct or remove it: it is a variable PIP_…, or stands in a file that `pip config debug` shows."
    hint = place if name.startswith("pip's ") else "Correct or unset the variable."
    return SettingsInvalid(f"{name} is {value!r}; it must be {kind}.", hint=hint)


def _read_constraints(path: Path) -> Requirements:
    try:
        return parse_requirements(decode_requirements(path.read_bytes()).splitlines(), origin=str(path))
    except RequirementsUnsafe as error:
        raise SettingsInvalid(
            error.message, hint="A constraint file may hold names, versions, markers and hashes here."
        ) from error
    except (OSError, ValueError) as error:
        raise SettingsInvalid(
            f"The constraint file {path} can't be read: {error}",
            hint="pip's `constraint` names it: PIP_CONSTRAINT, or what `pip config list` shows.",
        ) from error


def _url_of(place: str, cwd: Path, home: Path) -> str:
    """A place as a URL: what is none is a path, `~` is the user's home."""
    checked_url(place, "an index or find-links location")
    if "://" in place or place.startswith("file:"):
        return place
    return _absolute(place, cwd, home).as_uri()


def _absolute(text: str, cwd: Path, home: Path) -> Path:
    """A path as a user writes it: `~` is the home, a relative one counts from `cwd`."""
    if text == "~" or text.startswith(("~/", "~\\")):
        return home / text[2:]
    return absolute(cwd / text)


def local_path(url: str) -> Path | None:
    """The path that a `file:` URL names, None for any other URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _existing(urls: Iterable[str], what: str, notes: list[str]) -> tuple[str, ...]:
    """Without repetitions, and without the local ones that do not exist, as pip goes on without them."""
    kept: list[str] = []
    for url in dict.fromkeys(url.rstrip("/") for url in urls):
        path = local_path(url)
        if path is not None and not path.exists():
            notes.append(f"The {what} {path} does not exist and is ignored.")
        else:
            kept.append(url)
    return tuple(kept)


def is_torch_index(url: str, torch_index: str) -> bool:
    """Whether an index is PyTorch's, or the mirror that stands for it, or one of its builds' pages."""
    bare, base = without_credentials(url).rstrip("/"), without_credentials(torch_index).rstrip("/")
    return bare == base or bare.startswith(f"{base}/") or _PYTORCH_PATH.search(bare) is not None
