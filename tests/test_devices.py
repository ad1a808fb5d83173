"""Where a model goes: a pure choice among made-up devices, with its reason in words."""

import subprocess
import sys
from dataclasses import replace

import pytest

from pprobe_core import settings
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models import devices
from pprobe_core.models.catalogue import shipped_models
from pprobe_core.models.devices import OVERHEAD, Device, Placement, detect, place

GB = 2**30
CPU = Device("cpu", "CPU (x86_64)", 24 * GB)
H100 = Device("cuda:0", "NVIDIA H100", 78 * GB)
T4 = Device("cuda:0", "Tesla T4", 15 * GB, bf16=False)
MPS = Device("mps", "Apple GPU (MPS)", 16 * GB)


def bf16(gigabytes: float) -> dict[str, int]:
    """A checkpoint of so many gigabytes in bfloat16."""
    return {"BF16": int(gigabytes * GB / 2), "F32": 100}


def gpus(*free: float) -> list[Device]:
    return [Device(f"cuda:{i}", f"GPU {i}", int(f * GB)) for i, f in enumerate(free)]


def chosen(placement: Placement) -> tuple[str, str]:
    return placement.device, placement.dtype


def test_on_the_cpu_weights_are_float32_and_the_reason_says_why() -> None:
    placement = place("m", bf16(4), [CPU])
    assert chosen(placement) == ("cpu", "float32")
    assert placement.needed == 4 * (2 * GB + 100) + OVERHEAD
    assert placement.title == "CPU (x86_64), 24.0 GB free"
    assert placement.reason.startswith("CPU (x86_64): there is no GPU. float32: ")
    assert not placement.reduced


def test_where_float32_does_not_fit_the_cpu_takes_bfloat16_and_says_so() -> None:
    placement = place("m", bf16(16), [CPU])
    assert chosen(placement) == ("cpu", "bfloat16")
    assert placement.reduced
    assert "float32 would not fit" in placement.reason


@pytest.mark.parametrize(
    ("values", "device", "expected"),
    [
        (bf16(16), H100, ("cuda:0", "bfloat16")),
        ({"F16": 8 * GB}, H100, ("cuda:0", "float16")),
        ({"F32": 8 * GB}, H100, ("cuda:0", "float32")),
        (bf16(4), T4, ("cuda:0", "float32")),  # does not compute bfloat16
        (bf16(12), T4, ("cuda:0", "float16")),
        ({"F16": 6 * GB}, T4, ("cuda:0", "float16")),
        (bf16(8), MPS, ("mps", "bfloat16")),
    ],
)
def test_a_gpu_keeps_the_stored_dtype_where_it_computes_it(
    values: dict[str, int], device: Device, expected: tuple[str, str]
) -> None:
    placement = place("m", values, [device, CPU])
    assert chosen(placement) == expected
    assert placement.needed <= placement.free == device.free
    assert device.title in placement.title
    assert placement.reason.startswith(f"{device.title}: it is the fastest device here. {expected[1]}: ")


@pytest.mark.parametrize("device", [H100, MPS, T4])
def test_a_small_model_is_float32_everywhere_so_that_its_numbers_are_those_of_the_cpu(device: Device) -> None:
    for stored in ("F16", "BF16", "F32"):
        placement = place("small", {stored: 200_000_000}, [device, CPU])
        assert chosen(placement) == (device.name, "float32")
    assert chosen(place("m", {"F16": devices.SMALL // 4 + 1}, [H100, CPU])) == ("cuda:0", "float16")
    assert chosen(place("mini", {"F16": 2_000_000}, [H100, CPU], dtype="bfloat16")) == ("cuda:0", "bfloat16")


@pytest.mark.parametrize("device", [H100, MPS, T4])
def test_a_tiny_model_is_computed_on_the_cpu_unless_asked_otherwise(device: Device) -> None:
    placement = place("mini", {"BF16": devices.TINY // 4}, [device, CPU])
    assert chosen(placement) == ("cpu", "float32")
    assert placement.reason.startswith("CPU (x86_64): for so small a model it is as fast as a GPU. float32: ")
    assert place("mini", {"BF16": devices.TINY // 4 + 1}, [device, CPU]).device == device.name
    assert chosen(place("mini", {"BF16": 2_000_000}, [device, CPU], device=device.kind)) == (device.name, "float32")
    full = Device("cpu", CPU.title, 2**20)
    assert place("mini", {"BF16": 2_000_000}, [device, full]).device == device.name


def test_every_shipped_model_is_tiny() -> None:
    assert all(4 * entry.parameters <= devices.TINY for entry in shipped_models())


def test_the_first_gpu_that_holds_the_model_gets_it_whole() -> None:
    assert place("m", bf16(30), [*gpus(20, 40, 80), CPU]).device == "cuda:1"
    placement = place("m", bf16(10), [*gpus(20, 40), CPU])
    assert (placement.device, placement.spread, placement.max_memory) == ("cuda:0", False, ())


def test_several_gpus_share_what_no_single_one_holds() -> None:
    placement = place("m", bf16(60), [*gpus(40, 40), CPU])
    assert placement.spread
    assert placement.device == "cuda:0", "where the embeddings are, which come first"
    assert placement.dtype == "bfloat16"
    assert dict(placement.max_memory) == {0: int(36 * GB), 1: int(36 * GB)}, "a tenth is left for activations"
    assert "2 GPUs share the layers" in placement.reason
    assert placement.needed <= placement.free
    with pytest.raises(ModelUnavailable):
        place("m", bf16(75), [*gpus(40, 40), CPU])
    assert place("m", bf16(60), [replace(gpus(40)[0], bf16=False), gpus(0, 40)[1], CPU]).dtype == "float16"


def test_the_cpu_takes_over_where_the_gpu_is_too_small_and_the_reason_says_so() -> None:
    placement = place("m", bf16(10), [gpus(8)[0], CPU])
    assert chosen(placement) == ("cpu", "float32")
    assert "GPU 0 is too small for it (8.0 GB free)" in placement.reason
    assert "there is no GPU" not in placement.reason


def test_a_model_that_only_gpu_and_ram_together_hold_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelUnavailable, match=r"Together they would hold it, but .* out of reach.* smaller model\.$"):
        place("big/model", bf16(30), [gpus(20)[0], CPU])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([CPU], r"^m needs about 200\.2 GB of memory in bfloat16 and 24\.0 GB are free\. Close other programs"),
        ([H100, CPU], r"78\.0 GB are free on NVIDIA H100 and 24\.0 GB are free on CPU"),
    ],
)
def test_a_model_larger_than_everything_says_how_much_is_there(options: list[Device], said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        place("m", bf16(200), options)


def test_what_is_asked_for_is_done_or_refused_never_replaced() -> None:
    everything = [*gpus(20, 40), CPU]
    assert chosen(place("m", bf16(4), everything, device="cpu")) == ("cpu", "float32")
    assert chosen(place("m", bf16(4), everything, device="cuda:1")) == ("cuda:1", "bfloat16")
    assert chosen(place("m", bf16(30), everything, device="cuda")) == ("cuda:1", "bfloat16")
    asked = place("m", bf16(4), everything, dtype="float32")
    assert chosen(asked) == ("cuda:0", "float32")
    assert asked.reason.endswith("float32: as asked.")
    with pytest.raises(ModelUnavailable, match="needs about 30"):
        place("m", bf16(30), everything, device="cuda:0")
    with pytest.raises(ModelUnavailable, match="in float32"):
        place("m", bf16(16), [CPU], dtype="float32")


@pytest.mark.parametrize(
    ("device", "said"),
    [("tpu", "Usable are: cpu, cuda"), ("mps", "Usable"), ("cuda:x", "Usable"), ("cuda:7", "2 GPUs are present")],
)
def test_an_unknown_device_names_the_known_ones(device: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        place("m", bf16(1), [*gpus(20, 40), CPU], device=device)


def test_an_unknown_dtype_names_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="float32, bfloat16, float16"):
        place("m", bf16(1), [CPU], dtype="int8")


def test_a_model_fits_exactly_or_not_at_all() -> None:
    values = {"F32": 1000}
    least = 4000 + OVERHEAD
    assert place("m", values, [replace(CPU, free=least)], dtype="float32").needed == least
    with pytest.raises(ModelUnavailable):
        place("m", values, [replace(CPU, free=least - 1)], dtype="float32")


def test_this_computer_has_devices_and_idle_models_count_as_room() -> None:
    found = detect()
    assert found[-1].kind == "cpu"
    assert found[0].free > 0
    more = detect(reclaimable=7 * 2**40)
    assert more[0].free - found[0].free > 6 * 2**40
    assert str(found[-1]).endswith("GB free")


def test_a_torch_without_gpu_support_is_not_imported_to_look_for_gpus() -> None:
    code = (
        "import sys, importlib.metadata as m; m.version = lambda name: '2.13.0+cpu'\n"
        "from pprobe_core.models import devices\n"
        "print([d.kind for d in devices.detect()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cpu'] False"


def test_the_order_of_devices_is_the_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_accelerators", lambda _: (MPS,))
    assert [d.name for d in detect()] == ["mps", "cpu"]
    assert detect(reclaimable=GB)[0].free == MPS.free + GB
