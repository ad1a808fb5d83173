"""A pre-flight in words: labelled facts for the page and the command line, and the same as JSON. Imports no torch."""

import dataclasses
from typing import Any

from pprobe_core.models.known import KnownModel
from pprobe_core.models.preflight import Preflight
from pprobe_core.wording import duration, gigabytes, plural

_MEASURED = {True: "as measured the last time", False: "assumed, nothing was measured yet"}


def facts(flight: Preflight) -> list[tuple[str, str]]:
    """(label, text) in the order in which a person asks; what is not known is left out."""
    rows = [
        ("Model", _model(flight)),
        ("Structure", _sentence(flight.checked)),
        ("Languages", flight.languages or ""),
        ("Licence", _licence(flight)),
        ("Before alignment", flight.base_id or ""),
        ("Download", _download(flight)),
        ("Memory", _memory(flight)),
        ("Runs on", flight.placement.reason if flight.placement else ""),
        ("Time", _time(flight)),
        ("Revision", flight.revision or ""),
    ]
    return [(label, text) for label, text in rows if text]


def headline(flight: Preflight) -> str:
    """One line: whether the model can be used, and what pressing Run will cost."""
    if not flight.ready:
        return "This model cannot be used here."
    wait = f"about {duration(flight.download_seconds + flight.load_seconds)} until it is ready"
    if flight.missing_bytes > 0:
        return f"Ready to be fetched: {gigabytes(flight.missing_bytes)}, {wait}."
    return f"Ready to be loaded: {wait}."


def as_json(flight: Preflight) -> dict[str, Any]:
    """Every field, with what is computed from them."""
    values = dataclasses.asdict(flight)
    values["here"] = str(flight.here) if flight.here else None
    computed = ("ready", "missing_bytes", "download_seconds", "load_seconds")
    return values | {name: getattr(flight, name) for name in computed}


def parameters(n: int) -> str:
    """A number of parameters for people: 597 M, 4.0 B, "" for 0."""
    if n <= 0:
        return ""
    return f"{n / 1e9:.1f} B" if n >= 999_500_000 else f"{n / 1e6:.0f} M" if n >= 10_000_000 else f"{n / 1e6:.1f} M"


def known_line(model: KnownModel) -> str:
    """A model of the catalogue in a picker: its id, size, memory in bfloat16, and whether it is gated."""
    gate = ", gated" if model.gated else ""
    return f"{model.id} ({parameters(model.parameters)}, {gigabytes(model.bf16_bytes)}{gate})"


def mark(model: KnownModel) -> str:
    """What was tried of a model of the catalogue."""
    return "structure checked" if model.structure_checked else "not checked"


def _model(flight: Preflight) -> str:
    parts = [
        flight.family,
        plural(flight.n_layers, "layer") if flight.n_layers else "",
        f"{flight.d_mlp:,} neurons in each" if flight.d_mlp else "",
        f"{parameters(flight.parameters)} parameters" if flight.parameters else "",
    ]
    return ", ".join(part for part in parts if part)


def _licence(flight: Preflight) -> str:
    if not flight.gated:
        return flight.licence or ""
    where = f"it has to be accepted on {flight.link}"
    return f"{flight.licence}; {where}" if flight.licence else _sentence(where)


def _download(flight: Preflight) -> str:
    if flight.source in ("shipped", "folder") or flight.download_bytes == 0:
        return ""
    if flight.missing_bytes <= 0:
        return f"{gigabytes(flight.download_bytes)}, all of it is here"
    here = f", of which {gigabytes(flight.present_bytes)} are here" if flight.present_bytes > 2**20 else ""
    disk = f"; {gigabytes(flight.disk_free)} are free on disk" if flight.disk_free is not None else ""
    return f"{gigabytes(flight.download_bytes)}{here}{disk}"


def _memory(flight: Preflight) -> str:
    placement = flight.placement
    if placement is None:
        return ""
    return f"{gigabytes(placement.needed)} needed in {placement.dtype}, {gigabytes(placement.free)} free"


def _time(flight: Preflight) -> str:
    if flight.load_bytes == 0:
        return ""
    loading = f"loading about {duration(flight.load_seconds)}"
    pace = flight.download_pace
    if flight.missing_bytes <= 0 or pace is None:
        return _sentence(loading)
    speed = f"{pace.bytes_per_second / 1e6:.0f} MB/s, {_MEASURED[pace.measured]}"
    return f"Download about {duration(flight.download_seconds)} ({speed}), {loading}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
