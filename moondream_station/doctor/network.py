"""The user's packaging set-up and the places it names: do they answer, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from moondream_station.core.facts.errors import NetworkFault, StationError
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.index.listing import SourceReport
from moondream_station.core.index.offers import CollectedOffers
from moondream_station.doctor.patient import Patient, Unknowable
from moondream_station.doctor.report import Finding, ok, problem, warning

_REMEDIES = {
    NetworkFault.NAME_UNKNOWN: (
        "Check the connection and its DNS; without a network, set find-links or a mirror."
    ),
    NetworkFault.PROXY: "Check the proxy in HTTPS_PROXY and NO_PROXY, or in pip's `proxy`.",
    NetworkFault.CERTIFICATE_EXPIRED: (
        "Check this computer's clock; if it is right, the server's certificate must be renewed."
    ),
    NetworkFault.CERTIFICATE_NOT_YET_VALID: (
        "Check this computer's clock: by it, the server's certificate is not valid yet."
    ),
    NetworkFault.CERTIFICATE_UNTRUSTED: (
        "Name your organisation's certificates in SSL_CERT_FILE, PIP_CERT or pip's `cert`."
    ),
    NetworkFault.TLS: (
        "Something between this computer and the server breaks TLS: a proxy, or a wrong `http`/`https`."
    ),
    NetworkFault.CREDENTIALS: "Check the name and password: in netrc, or in the index's URL.",
    NetworkFault.FORBIDDEN: (
        "The server refuses: check that the address is an index's, and that you may read it."
    ),
    NetworkFault.SILENT: (
        "The server is slow or out of reach: retry, raise pip's `timeout`, or set a mirror."
    ),
    NetworkFault.REFUSED: "Nothing listens there: check the address and its port.",
    NetworkFault.NO_NETWORK: "This computer has no network, or none that leads there.",
    NetworkFault.NO_SUCH_PAGE: "Check the address: the index, or its mirror, has no page for torch.",
}
_OTHERWISE = "Check the address and the connection."
_TORCH_INDEX = "PyTorch's index"
_MIRROR = "MOONDREAM_STATION_TORCH_INDEX, or `torch_index` in config.json, names a mirror of it."
_AMDS_INDEX = "AMD's index"
_WITHOUT_AMDS = "This takes PyTorch's builds alone:"
_UNSET_AMDS = "moondream-station settings set vendor_indexes 0"
_CONFIG_LIST = "python -m pip config list"

_Reports = Sequence[SourceReport]


async def settings(patient: Patient) -> Finding:
    """Whether pip's and uv's settings can be used, and where packages come from."""
    try:
        config = await patient.config.get()
    except Unknowable as unknown:
        subject = await patient.subject.get()
        hint = unknown.failure.hint if isinstance(unknown.failure, StationError) else None
        text = hint or "Correct it; this shows all of it:"
        summary = "pip's or uv's settings can't be used."
        return problem(summary, text, _CONFIG_LIST, detail=unknown.reason, fatal=not subject.is_installed)
    if config.notes:
        summary = "Some of pip's or uv's settings are ignored."
        return warning(summary, "Correct or remove them.", _CONFIG_LIST, detail=config.notes)
    places = len(config.index_urls)
    proxies = {scheme: urlsplit(url).netloc.rpartition("@")[2] for scheme, url in config.proxies.items()}
    shown = [
        *(f"index: {redact_url(url)}" for url in config.index_urls),
        *(f"find-links: {redact_url(url)}" for url in config.find_links),
        *(f"{scheme} proxy: {host}" for scheme, host in proxies.items()),
        *(f"not checked: {host}" for host in config.trusted_hosts),
    ]
    return ok(f"Packages come from {places} {'index' if places == 1 else 'indexes'}.", shown)


async def torch_index(patient: Patient) -> Finding:
    """Whether PyTorch's index, or its mirror, answers."""
    offers, subject = await patient.offers.get(), await patient.subject.get()
    config = await patient.config.get()
    reports = _of(offers, "index")
    if config.no_index and not any(report.outcome == "ok" for report in reports):
        return ok("PyTorch's index is not asked: `no-index` is set.")
    elsewhere = any(offer.source != "index" for offer in offers.offers)
    fatal = not subject.is_installed and not elsewhere and (subject.needs_torch or not subject.requirements)
    good = f"{_TORCH_INDEX} answers, and has torch."
    return _verdict(_TORCH_INDEX, reports, good, fatal=fatal)


async def amd_index(patient: Patient) -> Finding:
    """Whether AMD's own indexes answer, where the machine may run what they have."""
    if not patient.settings.vendor_indexes:
        return ok("AMD's index is not asked: `vendor_indexes` is 0.")
    reports = _of(await patient.offers.get(), "vendor")
    if not reports:
        return ok("AMD's index is not asked: this machine has no use for it.")
    return _verdict(_AMDS_INDEX, reports, "AMD's index answers.", may_lack=True, fatal=False)


async def package_index(patient: Patient) -> Finding:
    """Whether the user's own indexes answer."""
    offers, subject = await patient.offers.get(), await patient.subject.get()
    config = await patient.config.get()
    if config.no_index:
        return ok("No index is asked for packages: `no-index` is set.")
    reports = _of(offers, "default")
    if not reports:
        return ok("Packages come from PyTorch's index or its mirror.")
    # That it has no torch is no fault: other packages come from there.
    good = "The package index answers."
    return _verdict("The package index", reports, good, may_lack=True, fatal=not subject.is_installed)


async def find_links(patient: Patient) -> Finding:
    """Whether the user's find-links can be read."""
    config = await patient.config.get()
    if not config.find_links:
        return ok("No find-links are set.")
    reports = _of(await patient.offers.get(), "find-links")
    reports = [report for report in reports if report.outcome == "failed"] or reports
    subject = await patient.subject.get()
    fatal = config.no_index and not subject.is_installed
    good = "The find-links can be read."
    return _verdict("One of the find-links", reports, good, may_lack=True, fatal=fatal)


def _of(offers: CollectedOffers, source: str) -> _Reports:
    return [report for report in offers.tried if report.source == source]


def _verdict(name: str, reports: _Reports, good: str, *, may_lack: bool = False, fatal: bool) -> Finding:
    """What became of one place; some may lack torch."""
    detail = [report.sentence for report in reports]
    failed = [report for report in reports if report.outcome == "failed"]
    has_answered = any(report.outcome == "ok" for report in reports)
    if not failed and (has_answered or may_lack):
        return ok(good, detail)
    worst = next(iter((*failed, *reports)), None)
    text = _REMEDIES.get(worst.fault, _OTHERWISE) if worst and worst.fault else _OTHERWISE
    reason = worst.detail if worst else "no address is set"
    # PyTorch's index and AMD's are set in the station's own settings, which pip does not show.
    own = {_TORCH_INDEX: (f"{text} {_MIRROR}",), _AMDS_INDEX: (f"{text} {_WITHOUT_AMDS}", _UNSET_AMDS)}
    remedy = own.get(name, (text, _CONFIG_LIST))
    if has_answered:
        return warning(f"{name} answers only in part.", *remedy, detail=detail)
    what = "can't be reached" if failed else "has no torch"
    return problem(f"{name} {what}: {reason}.", *remedy, detail=detail, fatal=fatal)
