"""The user's packaging set-up, from the files and variables that pip and uv read."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.packaging.packaging_config import PackagingConfig, load_packaging_config
from moondream_station.core.packaging.user_settings import (
    ETC,
    pip_config_files,
    pip_file_options,
    pip_variables,
    uv_config_files,
)

pytestmark = pytest.mark.anyio


class _User:
    """A user with a home, a virtual environment and nothing set."""

    def __init__(self, root: Path) -> None:
        self.home, self.prefix, self.work = root / "home", root / "venv", root / "work"
        for folder in (self.home, self.prefix, self.work):
            folder.mkdir()
        self.etc = root / "etc"
        self.environ = {"HOME": str(self.home)}
        self.global_file = self.etc / "xdg" / "pip" / "pip.conf"
        self.user_file = self.home / ".config" / "pip" / "pip.conf"
        self.legacy_file = self.home / ".pip" / "pip.conf"
        self.site_file = self.prefix / "pip.conf"
        self.uv_file = self.home / ".config" / "uv" / "uv.toml"

    async def load(self, **variables: str) -> PackagingConfig:
        """What the station makes of it, on Linux."""
        environ = {**self.environ, **variables}
        return await load_packaging_config(
            environ, prefix=self.prefix, cwd=self.work, platform="linux", etc=self.etc
        )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def user(tmp_path: Path) -> _User:
    """A user with nothing set."""
    return _User(tmp_path)


async def test_nothing_set_means_pypi(user: _User) -> None:
    """Without any configuration there is PyPI, and the system's certificates."""
    assert await user.load() == PackagingConfig()


async def test_every_option_of_pip_is_read(user: _User) -> None:
    """All that pip's file says about where packages come from, lists by blanks and lines."""
    (user.work / "links").mkdir()
    _write(user.home / "ca.pem", "")
    _write(
        user.user_file,
        f"""[global]
index-url = https://mirror.example/simple/
extra-index-url =
    https://one.example/simple
    https://two.example/simple https://one.example/simple/
find_links = {user.work}/links https://links.example/torch.html
cert = ~/ca.pem
client-cert = client.pem
proxy = me:secret@proxy.example:3128
default-timeout = 60
retries = 2
trusted-host = mirror.example other.example:8443
[install]
constraint = constraints.txt
[other]
no-index = true
""",
    )
    assert await user.load() == PackagingConfig(
        index_url="https://mirror.example/simple",
        extra_index_urls=("https://one.example/simple", "https://two.example/simple"),
        find_links=((user.work / "links").as_uri(), "https://links.example/torch.html"),
        index_strategy="unsafe-best-match",
        cert=user.home / "ca.pem",
        client_cert=user.work / "client.pem",
        proxies={
            "http": "http://me:secret@proxy.example:3128",
            "https": "http://me:secret@proxy.example:3128",
        },
        timeout_seconds=60,
        retries=2,
        trusted_hosts=("mirror.example", "other.example:8443"),
        constraints=(user.work / "constraints.txt",),
    )


async def test_the_order_of_pips_files(user: _User) -> None:
    """Global, legacy, user's, environment's, named file; install before global; variables before all."""
    files = (user.global_file, user.etc / "pip.conf", user.legacy_file, user.user_file, user.site_file)
    for number, path in enumerate(files):
        _write(path, f"[global]\nindex-url = https://{number}.example/simple\n")
        assert (await user.load()).index_url == f"https://{number}.example/simple"
    named = user.work / "named.conf"
    _write(named, "[global]\nindex-url = https://named.example/simple\n")
    assert (await user.load(PIP_CONFIG_FILE=str(named))).index_url == "https://named.example/simple"
    _write(user.global_file, "[install]\nindex-url = https://install.example/simple\n")
    assert (await user.load(PIP_CONFIG_FILE=str(named))).index_url == "https://install.example/simple"
    variable = {"PIP_INDEX_URL": "https://variable.example/simple"}
    assert (await user.load(PIP_CONFIG_FILE=str(named), **variable)).index_url == variable["PIP_INDEX_URL"]


async def test_the_null_device_switches_pips_files_off(user: _User) -> None:
    """`PIP_CONFIG_FILE=/dev/null` is pip's own way to say so; an empty variable says nothing."""
    _write(user.user_file, "[global]\nindex-url = https://mirror.example/simple\n")
    assert await user.load(PIP_CONFIG_FILE=os.devnull) == PackagingConfig()
    assert (await user.load(PIP_INDEX_URL="")).index_url == "https://mirror.example/simple"


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment was made without pip")
def test_pip_itself_says_the_same(user: _User) -> None:
    """What is read here is what `pip config list` prints for the same files and variables."""
    _write(user.legacy_file, "[global]\nindex-url = https://legacy.example/simple\ntimeout = 5\n")
    _write(
        user.user_file,
        "[install]\ntimeout = 7\n[global]\nextra-index-url = https://a.example https://b.example\n",
    )
    environ = {**user.environ, "PIP_FIND_LINKS": "/some/where", "PIP_DEFAULT_TIMEOUT": "9"}
    argv = [sys.executable, "-m", "pip", "config", "list"]
    completed = subprocess.run(argv, env=environ, capture_output=True, check=True, text=True)
    said: dict[str, str] = {}
    lines = [line.partition("=") for line in completed.stdout.splitlines()]
    for section in ("global", "install", ":env:"):
        said |= {
            name.removeprefix(f"{section}."): ast.literal_eval(value)
            for name, _, value in lines
            if name.startswith(f"{section}.")
        }
    read = {**pip_file_options(environ, Path(sys.prefix), sys.platform, ETC), **pip_variables(environ)}
    assert read.pop("timeout") == said.pop("default-timeout") == "9"
    assert said.pop("timeout") == "7"
    assert read == said


def test_where_pip_looks_on_each_system(tmp_path: Path) -> None:
    """Windows and macOS have places of their own."""
    home, prefix = tmp_path / "home", tmp_path / "venv"
    windows = {
        "USERPROFILE": str(home),
        "APPDATA": str(tmp_path / "roaming"),
        "PROGRAMDATA": str(tmp_path / "all"),
    }
    assert pip_config_files(windows, prefix, "win32", ETC) == (
        tmp_path / "all" / "pip" / "pip.ini",
        home / "pip" / "pip.ini",
        tmp_path / "roaming" / "pip" / "pip.ini",
        prefix / "pip.ini",
    )
    mac = {"HOME": str(home)}
    assert pip_config_files(mac, prefix, "darwin", ETC) == (
        Path("/Library/Application Support/pip/pip.conf"),
        home / ".pip" / "pip.conf",
        home / ".config" / "pip" / "pip.conf",
        prefix / "pip.conf",
    )
    support = home / "Library" / "Application Support" / "pip"
    support.mkdir(parents=True)
    assert support / "pip.conf" in pip_config_files(mac, prefix, "darwin", ETC)
    assert uv_config_files(windows, "win32", ETC) == (
        tmp_path / "roaming" / "uv" / "uv.toml",
        tmp_path / "all" / "uv" / "uv.toml",
    )


async def test_uvs_variables_name_indexes(user: _User) -> None:
    """Names before the URL are dropped, their credentials put into it."""
    config = await user.load(
        UV_DEFAULT_INDEX="corp=https://mirror.example/simple",
        UV_INDEX="team-a=https://team.example/simple https://plain.example/simple",
        UV_EXTRA_INDEX_URL="https://extra.example/simple",
        UV_INDEX_TEAM_A_USERNAME="me",
        UV_INDEX_TEAM_A_PASSWORD="p@ss",  # noqa: S106  a test's own
        UV_FIND_LINKS="https://links.example/a,https://links.example/b",
        UV_INSECURE_HOST="team.example",
        UV_HTTP_TIMEOUT="90",
        UV_HTTP_RETRIES="0",
        UV_TORCH_BACKEND="cpu",
    )
    assert config == PackagingConfig(
        index_url="https://mirror.example/simple",
        extra_index_urls=(
            "https://me:p%40ss@team.example/simple",
            "https://plain.example/simple",
            "https://extra.example/simple",
        ),
        find_links=("https://links.example/a", "https://links.example/b"),
        trusted_hosts=("team.example",),
        timeout_seconds=90,
        retries=0,
    )


async def test_uvs_file_names_indexes(user: _User) -> None:
    """Explicit indexes serve only what names them, so they are left out; flat ones are find-links."""
    (user.uv_file.parent / "wheels").mkdir(parents=True)
    _write(
        user.uv_file,
        """
index-strategy = "first-index"
keyring-provider = "subprocess"
allow-insecure-host = ["team.example"]
extra-index-url = ["https://extra.example/simple"]
find-links = ["wheels"]
https-proxy = "http://proxy.example:3128"
no-proxy = ["localhost"]
resolution = "lowest"
[[index]]
url = "https://mirror.example/simple"
default = true
[[index]]
name = "only"
url = "https://explicit.example/simple"
explicit = true
[[index]]
name = "team"
url = "https://team.example/simple"
[[index]]
url = "https://flat.example/links"
format = "flat"
""",
    )
    config = await user.load(UV_INDEX_TEAM_PASSWORD="secret")  # noqa: S106  a test's own
    assert config == PackagingConfig(
        index_url="https://mirror.example/simple",
        extra_index_urls=("https://:secret@team.example/simple", "https://extra.example/simple"),
        find_links=("https://flat.example/links", (user.uv_file.parent / "wheels").as_uri()),
        index_strategy="first-index",
        keyring_provider="subprocess",
        proxies={"https": "http://proxy.example:3128"},
        no_proxy=("localhost",),
        trusted_hosts=("team.example",),
    )


async def test_variables_go_before_files_and_uv_before_pip(user: _User) -> None:
    """Uv's variable, pip's variable, uv's file, pip's file; lists of both are joined."""
    pip_file = "[global]\nindex-url = https://pip-file.example\nextra-index-url = https://pip-extra.example\n"
    _write(user.user_file, pip_file)
    assert (await user.load()).index_url == "https://pip-file.example"
    _write(
        user.uv_file,
        'index-url = "https://uv-file.example"\nextra-index-url = ["https://uv-extra.example"]\n',
    )
    assert (await user.load()).index_url == "https://uv-file.example"
    pip_variable = {"PIP_INDEX_URL": "https://pip-variable.example"}
    assert (await user.load(**pip_variable)).index_url == "https://pip-variable.example"
    config = await user.load(**pip_variable, UV_DEFAULT_INDEX="https://uv-variable.example")
    assert config.index_url == "https://uv-variable.example"
    assert config.extra_index_urls == ("https://uv-extra.example", "https://pip-extra.example")


async def test_places_that_do_not_exist_are_left_out_with_a_note(user: _User) -> None:
    """As pip goes on without them, and says so."""
    index = user.home / "simple"
    index.mkdir()
    config = await user.load(
        PIP_EXTRA_INDEX_URL=f"{index.as_uri()} file:///not/there/simple",
        PIP_FIND_LINKS="not-there ~/simple",
        PIP_CERT="/not/there.pem",
        PIP_CONSTRAINT="https://constraints.example/c.txt?secret=x",
    )
    assert config.extra_index_urls == (index.as_uri(),)
    assert config.find_links == (index.as_uri(),)
    assert config.cert is None
    assert config.notes == (
        "The extra index /not/there/simple does not exist and is ignored.",
        f"The find-links location {user.work}/not-there does not exist and is ignored.",
        "The certificates at /not/there.pem do not exist; those of the system are used.",
        "The constraints at https://constraints.example/c.txt are ignored: only files are supported.",
    )


async def test_certificates_as_other_tools_name_them(user: _User) -> None:
    """Pip's own setting first, then the variables that uv and pip's library read."""
    one, two = user.home / "one.pem", user.home / "two.pem"
    for path in (one, two):
        path.touch()
    assert (await user.load(REQUESTS_CA_BUNDLE=str(two))).cert == two
    assert (await user.load(REQUESTS_CA_BUNDLE=str(two), SSL_CERT_FILE=str(one))).cert == one
    assert (await user.load(SSL_CERT_FILE=str(one), PIP_CERT=str(two))).cert == two


async def test_proxies_of_the_environment(user: _User) -> None:
    """Both spellings, one for all schemes, and the hosts without."""
    config = await user.load(
        ALL_PROXY="proxy.example:1", https_proxy="http://proxy.example:2", NO_PROXY="a.example, b"
    )
    assert config.proxies == {"http": "http://proxy.example:1", "https": "http://proxy.example:2"}
    assert config.no_proxy == ("a.example", "b")


async def test_netrc_is_found_where_it_is(user: _User) -> None:
    """`NETRC`, else the home's; absent is fine."""
    assert (await user.load()).netrc is None
    (user.home / ".netrc").touch()
    assert (await user.load()).netrc == user.home / ".netrc"
    assert (await user.load(NETRC=str(user.home / "other"))).netrc is None


async def test_no_index_leaves_find_links_alone(user: _User) -> None:
    """Then no index counts, whatever was named."""
    config = await user.load(PIP_NO_INDEX="1", PIP_INDEX_URL="https://mirror.example")
    assert config.no_index
    assert config.index_urls == ()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PIP_NO_INDEX": "perhaps"}, "no-index"),
        ({"PIP_TIMEOUT": "soon"}, "timeout"),
        ({"UV_HTTP_TIMEOUT": "soon"}, "UV_HTTP_TIMEOUT"),
    ],
)
async def test_values_that_mean_nothing_are_refused(
    user: _User, variables: dict[str, str], words: str
) -> None:
    """Pip and uv refuse them too; going on would ask other servers than the user wanted."""
    with pytest.raises(SettingsInvalid, match=words) as refused:
        await user.load(**variables)
    assert "Correct or" in (refused.value.hint or "")


async def test_a_time_without_end_is_a_long_one(user: _User) -> None:
    """Pip takes "inf" for a number, uv whole seconds alone; what is no number at all says nothing."""
    config = await user.load(PIP_TIMEOUT="inf", PIP_RETRIES="inf", UV_HTTP_CONNECT_TIMEOUT="nan")
    variables = config.to_uv_environment(torch_index="https://download.pytorch.org/whl")
    assert variables["UV_HTTP_TIMEOUT"] == "1000000000"
    assert variables["UV_HTTP_RETRIES"] == "0"


async def test_broken_files_are_refused_by_name(user: _User) -> None:
    """The message says which file, and where it can, which line."""
    _write(user.user_file, "index-url = https://mirror.example\n")
    with pytest.raises(SettingsInvalid, match=r"pip\.conf can't be read"):
        await user.load()
    user.user_file.unlink()
    _write(user.uv_file, "index-url = [")
    with pytest.raises(SettingsInvalid, match=r"uv\.toml can't be read"):
        await user.load()
    _write(user.uv_file, f"concurrent-builds = {'1' * 5000}")
    with pytest.raises(SettingsInvalid, match=r"uv\.toml can't be read: a number in it has too many digits"):
        await user.load()


async def test_no_secret_is_in_the_repr(user: _User) -> None:
    """A configuration may end up in a log or a traceback."""
    config = await user.load(
        PIP_INDEX_URL="https://me:secret@mirror.example/simple",
        PIP_EXTRA_INDEX_URL="https://secret@extra.example/simple https://c.example/?t=secret",
        PIP_FIND_LINKS="https://me:secret@links.example/",
        PIP_PROXY="me:secret@proxy.example:1",
    )
    assert "secret" in config.index_url
    assert "secret" not in repr(config)
    assert "secret" not in f"{config}"
    assert "mirror.example" in repr(config)
