"""Where a model can be put: devices with their free memory, and the choice among them. The choice is a pure function.

Imports torch only to look at accelerators, and only where there may be one.
"""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models.libraries import import_libraries
from pprobe_core.models.memory import OVERHEAD, free_memory
from pprobe_core.wording import gigabytes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
TINY = 2**26  # bytes of float32 weights up to which a model is computed on the CPU everywhere: it is as fast there
SMALL = 2**30  # bytes of float32 weights up to which a model is computed in it everywhere
_SPREAD_SHARE = 0.9  # of a GPU's free memory, where a model is spread over several: the rest is for activations


@dataclass(frozen=True)
class Device:
    """A place for weights: "cuda:0", "mps" or "cpu", its name for people, its free bytes."""

    name: str
    title: str
    free: int
    bf16: bool = True  # computes bfloat16 natively

    @property
    def kind(self) -> str:
        """ "cuda", "mps" or "cpu"."""
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.title}, {gigabytes(self.free)} free"


@dataclass(frozen=True)
class Placement:
    """Where a model goes, in which dtype, and why. Bytes include the overhead beside the weights."""

    device: str  # of the embeddings
    title: str  # of the device or devices, with their free memory
    dtype: str
    needed: int
    free: int
    reason: str  # one or two sentences
    max_memory: tuple[tuple[int, int], ...] = ()  # GPU index -> bytes at most, where several share the model
    reduced: bool = False  # a coarser dtype than the rule's, because memory is short

    @property
    def spread(self) -> bool:
        """True when several GPUs share the model."""
        return len(self.max_memory) > 1


def detect(reclaimable: int = 0) -> tuple[Device, ...]:
    """The devices of this computer: CUDA GPUs, Apple's GPU, then the CPU.

    `reclaimable` bytes can be had by dropping idle models; they count as free where models are put first.
    """
    cpu = Device("cpu", f"CPU ({platform.machine() or 'unknown'})", free_memory())
    devices = (*_accelerators(cpu.free), cpu)
    return (replace(devices[0], free=devices[0].free + reclaimable), *devices[1:])


def _accelerators(free_ram: int) -> tuple[Device, ...]:
    if "+cpu" in importlib.metadata.version("torch"):  # built without any: no need to wait for its import
        return ()
    import_libraries()
    import torch

    if torch.cuda.is_available():
        return tuple(
            Device(
                f"cuda:{i}",
                torch.cuda.get_device_name(i),
                torch.cuda.mem_get_info(i)[0],
                torch.cuda.get_device_capability(i) >= (8, 0),
            )
            for i in range(torch.cuda.device_count())
        )
    if torch.backends.mps.is_available():  # its memory is the computer's, up to a limit of the system
        room = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return (Device("mps", "Apple GPU (MPS)", max(0, min(room, free_ram))),)
    return ()


def place(
    name: str,
    values: dict[str, int],
    devices: Sequence[Device],
    device: str | None = None,
    dtype: str | None = None,
) -> Placement:
    """The device and dtype for a model whose checkpoint stores `values` numbers by dtype ("BF16": 596049920).

    Without a request: the first GPU that holds it, else several GPUs together, else Apple's GPU, else the CPU; a TINY
    model, as the shipped ones are, goes to the CPU, where it is as fast and gives the numbers of other computers. On
    the CPU weights are float32 (bfloat16 where float32 does not fit). Elsewhere small models (SMALL) are float32 as
    well, so that they give the CPU's numbers; others keep the dtype most of their weights are stored in, where the
    device computes it. Raises BadRequest for a device or dtype that is not known here, ModelUnavailable when nothing
    holds the model.
    """
    if dtype is not None and dtype not in BYTES:
        raise BadRequest(f"The dtype “{dtype}” is not known. Accepted are {', '.join(BYTES)}.")
    chosen = _asked_for(devices, device)
    n_values = sum(values.values())
    tiny = len(chosen) > 1 and device is None and dtype is None and n_values * BYTES["float32"] <= TINY
    if tiny:
        chosen.sort(key=lambda d: d.kind != "cpu")
    tried: list[Placement] = []
    for one in chosen:
        if device is not None:
            where = "as asked"
        elif one.kind != "cpu":
            where = "it is the fastest device here"
        else:
            where = "for so small a model it is as fast as a GPU" if tiny else "there is no GPU"
        for option in _on_one(one, n_values, values, dtype, where=where):
            if option.needed <= option.free:
                passed = [t for t in tried if t.device != option.device]
                return replace(option, reason=_with_passed(option, passed))
            tried.append(option)
        if one is _last_gpu(chosen) and (shared := _spread(chosen, n_values, values, dtype)) is not None:
            return shared
    raise ModelUnavailable(_too_large(name, tried, chosen))


def _asked_for(devices: Sequence[Device], device: str | None) -> list[Device]:
    """The devices a request allows, in order of preference."""
    if device is None:
        return list(devices)
    kind, _, index = device.partition(":")
    of_kind = [d for d in devices if d.kind == kind]
    usable = ", ".join(dict.fromkeys(d.kind for d in reversed(devices)))
    if not of_kind or (index and not (kind == "cuda" and index.isdigit())):
        raise BadRequest(f"The device “{device}” is not available here. Usable are: {usable}.")
    if not index:
        return of_kind
    if int(index) >= len(of_kind):
        raise BadRequest(f"The device “{device}” is not available here: {len(of_kind)} GPUs are present.")
    return [of_kind[int(index)]]


def _on_one(device: Device, n_values: int, values: dict[str, int], dtype: str | None, *, where: str) -> list[Placement]:
    """The ways to put a model on one device, the preferred dtype first; `where` says why it is this one."""

    def option(chosen: str, why: str, reduced: bool = False) -> Placement:
        reason = f"{device.title}: {where}. {chosen}: {why}."
        needed = n_values * BYTES[chosen] + OVERHEAD
        return Placement(device.name, str(device), chosen, needed, device.free, reason, reduced=reduced)

    if dtype is not None:
        return [option(dtype, "as asked")]
    if device.kind == "cpu":
        return [
            option("float32", "the CPU computes it fastest and without rounding the weights"),
            option("bfloat16", "float32 would not fit in the free memory; numbers are rounded more coarsely", True),
        ]
    stored = _stored_dtype(values)
    small = n_values * BYTES["float32"] <= SMALL and stored != "float32"
    exact = [option("float32", "the model is small, and without rounding its numbers are those of the CPU")]
    if stored == "bfloat16" and not device.bf16:
        return [
            option("float32", "this GPU does not compute bfloat16, in which the weights are stored"),
            option("float16", "this GPU does not compute bfloat16 and float32 would not fit", True),
        ]
    return [*(exact if small else []), option(stored, "the weights are stored in it")]


def _spread(chosen: Sequence[Device], n_values: int, values: dict[str, int], dtype: str | None) -> Placement | None:
    """Several GPUs together, None when even all of them are too small or there is only one."""
    gpus = [d for d in chosen if d.kind == "cuda"]
    if len(gpus) < 2:
        return None
    stored = _stored_dtype(values)
    native = stored if stored != "bfloat16" or all(d.bf16 for d in gpus) else "float16"
    picked = dtype or native
    needed = n_values * BYTES[picked] + OVERHEAD * len(gpus)
    room = [int(d.free * _SPREAD_SHARE) for d in gpus]
    if needed > sum(room):
        return None
    why = "as asked" if dtype else "the weights are stored in it" if picked == stored else "these GPUs compute it"
    return Placement(
        device=gpus[0].name,
        title="; ".join(str(d) for d in gpus),
        dtype=picked,
        needed=needed,
        free=sum(room),
        reason=f"{len(gpus)} GPUs share the layers: no single one has {gigabytes(needed)} free. {picked}: {why}.",
        max_memory=tuple((int(d.name.partition(":")[2]), r) for d, r in zip(gpus, room, strict=True)),
    )


def _stored_dtype(values: dict[str, int]) -> str:
    """The dtype most numbers are stored in."""
    return _STORED.get(max(values, key=lambda name: values[name], default=""), "float32")


def _last_gpu(chosen: Sequence[Device]) -> Device | None:
    return next((d for d in reversed(chosen) if d.kind == "cuda"), None)


def _with_passed(option: Placement, passed: Sequence[Placement]) -> str:
    """The reason, with the device that was passed over because it is too small."""
    if not passed:
        return option.reason
    first = passed[0]
    why = f"{first.title.partition(',')[0]} is too small for it ({gigabytes(first.free)} free)"
    return option.reason.replace("there is no GPU", why).replace("it is the fastest device here", why)


def _too_large(name: str, tried: Sequence[Placement], chosen: Sequence[Device]) -> str:
    """Why nothing holds the model, and what would help."""
    least = min(tried, key=lambda option: option.needed)
    sentence = f"{name} needs about {gigabytes(least.needed)} of memory in {least.dtype}"
    gpus = [d for d in chosen if d.kind != "cpu"]
    if not gpus:
        seen = f"{gigabytes(least.free)} are free"
    elif len(chosen) == 1:
        seen = f"{gigabytes(least.free)} are free on {gpus[0].title}"
    else:
        seen = " and ".join(f"{gigabytes(d.free)} are free on {d.title}" for d in chosen)
        if sum(d.free for d in chosen) >= least.needed:
            return (
                f"{sentence}: {seen}. Together they would hold it, but a part that waits in RAM leaves the neurons' "
                "output weights out of reach. Use a larger GPU or several, or a smaller model."
            )
    help_ = "Close other programs, choose a smaller model or use a machine with more memory."
    return f"{sentence} and {seen}. {help_}" if len(chosen) == 1 or not gpus else f"{sentence}: {seen}. {help_}"
