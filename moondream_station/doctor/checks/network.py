"""The user's packaging set-up and the places it names: do they answer, and if not, why."""

from __future__ import annotations

from urllib.parse import urlsplit

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.index.offers import CollectedOffers
from moondream_station.core.index.page_source import SourceReport
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.doctor.patient.check import OFFERS_SECONDS, Check
from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, ok, problem, warning

_REMEDIES = (
    (
        "name can't be resolved",
        "Check the connection and its DNS; without a network, set find-links or a mirror.",
    ),
    ("proxy", "Check the proxy: HTTPS_PROXY and NO_PROXY, or pip's `proxy`, name it."),
    (
        "has expired",
        "Look at this computer's clock; if it is right, the server's certificate must be renewed.",
    ),
    ("not yet valid", "Look at this computer's clock: to it, the server's certificate is of the future."),
    ("certificate", "Name your organisation's certificates: SSL_CERT_FILE, PIP_CERT or pip's `cert`."),
    (
        "secure connection",
        "Something between here and the server breaks TLS: a proxy, or a wrong `http`/`https`.",
    ),
    ("status 401", "Check the name and password: in netrc, or in the index's URL."),
    ("403", "The server refuses: check that the address is an index's, and that you may read it."),
    ("in time", "The server is slow or out of reach: try again, raise pip's `timeout`, or set a mirror."),
    ("refused", "Nothing listens there: check the address and its port."),
    ("no way to it", "This computer has no network, or none that leads there."),
    ("no such page", "Check the address: the index, or its mirror, has no page for torch."),
)
_OTHERWISE = "Check the address and the connection."
_TORCH_INDEX = "PyTorch's index"
_MIRROR = "MOONDREAM_STATION_TORCH_INDEX, or `torch_index` in config.json, names a mirror of it."


async def _settings(patient: Patient) -> Verdict:
    try:
        # Not the shared fact: what is wrong with the settings is for this check to say.
        config = await patient.load_config()
    except SettingsInvalid as invalid:
        subject = await patient.subject.get()
        remedy = Remedy(
            text=invalid.hint or "Correct it; this shows all of it:", commands=("python -m pip config list",)
        )
        summary = "pip's or uv's settings can't be used."
        return problem(summary, fatal=not subject.is_installed, detail=invalid.message, remedy=remedy)
    detail = "\n".join(_shown(config))
    if config.notes:
        summary = "Something in pip's or uv's settings is left out."
        remedy = Remedy(text="Correct or remove it.", commands=("python -m pip config list",))
        return warning(summary, detail="\n".join(config.notes), remedy=remedy)
    places = len(config.index_urls)
    return ok(f"Packages come from {places} {'index' if places == 1 else 'indexes'}.", detail=detail)


def _shown(config: PackagingConfig) -> list[str]:
    lines = [f"index: {redact_url(url)}" for url in config.index_urls]
    lines += [f"find-links: {redact_url(url)}" for url in config.find_links]
    lines += [f"{scheme} proxy: {_host(url)}" for scheme, url in config.proxies.items()]
    lines += [f"not checked: {host}" for host in config.trusted_hosts]
    return lines


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


async def _torch_index(patient: Patient) -> Verdict:
    collected, subject = await patient.offers.get(), await patient.subject.get()
    config = await patient.config.get()
    reports = _of(collected, "index")
    if config.no_index and not any(report.outcome == "ok" for report in reports):
        return ok("PyTorch's index is not asked: `no-index` is set.")
    elsewhere = any(offer.source != "index" for offer in collected.offers)
    fatal = not subject.is_installed and not elsewhere and (subject.wants_torch or not subject.requirements)
    return _verdict(_TORCH_INDEX, reports, fatal=fatal)


async def _package_index(patient: Patient) -> Verdict:
    collected, subject = await patient.offers.get(), await patient.subject.get()
    config = await patient.config.get()
    if config.no_index:
        return ok("No index is asked for packages: `no-index` is set.")
    reports = _of(collected, "default")
    if reports and all(report.outcome != "failed" for report in reports):
        # That it has no torch is nothing to complain of: other packages come from there.
        return ok("The index of packages answers.", detail=_lines(reports))
    if not reports:
        return ok("The packages come from PyTorch's index or its mirror.")
    return _verdict("The index of packages", reports, fatal=not subject.is_installed)


async def _find_links(patient: Patient) -> Verdict:
    config = await patient.config.get()
    if not config.find_links:
        return ok("No find-links are set.")
    reports = _of(await patient.offers.get(), "find-links")
    failed = [report for report in reports if report.outcome == "failed"]
    if not failed:
        return ok("The find-links can be read.", detail=_lines(reports))
    subject = await patient.subject.get()
    return _verdict("Of the find-links one", failed, fatal=config.no_index and not subject.is_installed)


def _of(collected: CollectedOffers, source: str) -> tuple[SourceReport, ...]:
    return tuple(report for report in collected.tried if report.source == source)


def _verdict(what: str, reports: tuple[SourceReport, ...] | list[SourceReport], *, fatal: bool) -> Verdict:
    failed = [report for report in reports if report.outcome == "failed"]
    has_answered = any(report.outcome == "ok" for report in reports)
    detail = _lines(reports)
    if has_answered and not failed:
        return ok(f"{what} answers, and has torch.", detail=detail)
    if has_answered:
        summary = f"{what} does not answer everything."
        return warning(summary, detail=detail, remedy=_remedy(what, failed[0].detail))
    if failed:
        summary = f"{what} can't be reached: {failed[0].detail}."
        return problem(summary, fatal=fatal, detail=detail, remedy=_remedy(what, failed[0].detail))
    why = reports[0].detail if reports else "no place is named"
    return problem(f"{what} has no torch: {why}.", fatal=fatal, detail=detail, remedy=_remedy(what, why))


def _lines(reports: tuple[SourceReport, ...] | list[SourceReport]) -> str | None:
    return "\n".join(report.sentence for report in reports) or None


def _remedy(what: str, detail: str) -> Remedy:
    """What to do; PyTorch's index is named by the station's own settings, which pip does not show."""
    text = next((text for word, text in _REMEDIES if word in detail), _OTHERWISE)
    if what == _TORCH_INDEX:
        return Remedy(text=f"{text} {_MIRROR}")
    return Remedy(text=text, commands=("python -m pip config list",))


CHECKS = (
    Check(
        id="network.settings",
        section=Section.NETWORK,
        title="pip's and uv's settings",
        look=_settings,
        needs_home=True,
    ),
    Check(
        id="network.torch-index",
        section=Section.NETWORK,
        title="PyTorch's index",
        look=_torch_index,
        limit_seconds=OFFERS_SECONDS,
        needs_network=True,
        needs_home=True,
    ),
    Check(
        id="network.package-index",
        section=Section.NETWORK,
        title="The index of packages",
        look=_package_index,
        limit_seconds=OFFERS_SECONDS,
        needs_network=True,
        needs_home=True,
    ),
    Check(
        id="network.find-links",
        section=Section.NETWORK,
        title="The find-links",
        look=_find_links,
        limit_seconds=OFFERS_SECONDS,
        needs_network=True,
        needs_home=True,
    ),
)
