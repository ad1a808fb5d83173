"""Hub models, against a small hub on this computer: what is asked and fetched, and what is said when it goes wrong."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from pprobe_core import settings
from pprobe_core.errors import Cancelled, ModelUnavailable
from pprobe_core.models import devices, hub, pace, preflight, transfer
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.checkpoint import INDEX
from pprobe_core.models.loading import estimated_bytes, load_model
from pprobe_core.models.watching import LoadPhase, Watch
from tests.hub_server import COMMIT, OLDER, PIECE, Hub, use_hub
from tests.tiny_models import random_model, tiny_config, write_tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = write_tiny_model(tmp_path / "upstream", "qwen3")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("# Tiny")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    with Hub(folder).serving() as found:
        use_hub(monkeypatch, found.address)
        yield found


class Recorder(Watch):
    """Remembers what it is told; stops after `stop_after` bytes of a download."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.phases: list[LoadPhase] = []
        self.total = self.done = self.before = 0
        self.most = 0
        self.stop_after = stop_after

    def enter(self, phase: LoadPhase, total: int = 0, done: int = 0) -> None:
        self.phases.append(phase)
        if phase == "downloading":
            self.total, self.done, self.before = total, done, done

    def advance(self, n: int) -> None:
        self.done += n
        self.most = max(self.most, self.done)

    def check(self) -> None:
        if self.stop_after is not None and self.done - self.before >= self.stop_after:
            raise Cancelled("Stopped.")


def refusal(model: str) -> str:
    with pytest.raises(ModelUnavailable) as e:
        load_model(model, device="cpu")
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600
    return str(e.value)


def upload_shards(server: Hub, tmp_path: Path) -> None:
    """The model in several files, in place of the one."""
    folder = write_tiny_model(tmp_path / "sharded", "qwen3", max_shard_size="60KB")
    del server.files[WEIGHTS]
    server.files |= {f.name: f.read_bytes() for f in folder.iterdir()}


def partial(tmp_path: Path) -> Path:
    """The part of a weight file that an interrupted download has left."""
    (file,) = (tmp_path / "cache" / "hub").rglob("*.incomplete")
    return file


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_hub_model_is_fetched_loaded_and_known_by_its_commit(server: Hub, tmp_path: Path) -> None:
    loaded = load_model("own/tiny", device="cpu")
    assert (loaded.id, loaded.revision, loaded.family) == ("own/tiny", COMMIT, "qwen3")
    assert loaded.weights_sha256 == hashlib.sha256(server.files[WEIGHTS]).hexdigest()
    assert (loaded.entry.n_layers, loaded.entry.parameters, loaded.entry.on_hub) == (3, 42000, False)
    assert Path(loaded.path).is_relative_to(tmp_path / "cache" / "hub")
    assert find_model(loaded.id).on_hub


def test_a_revision_can_be_named_and_is_pinned_to_its_commit(server: Hub) -> None:
    assert load_model("own/tiny@v1", device="cpu").revision == OLDER
    by_commit = load_model(f"own/tiny@{OLDER}", device="cpu")
    assert (by_commit.revision, by_commit.id) == (OLDER, f"own/tiny@{OLDER}")
    assert load_model("own/tiny", device="cpu").revision == COMMIT
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS]), "the same content is fetched once for all commits"
    assert "no revision “v9”" in refusal("own/tiny@v9")


def test_only_weights_configuration_and_tokeniser_are_fetched(server: Hub) -> None:
    folder = Path(load_model("own/tiny", device="cpu").path)
    fetched = {f.name for f in folder.iterdir()}
    assert {"config.json", WEIGHTS, "tokenizer.json", "chat_template.jinja"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling_own.py", "README.md", "consolidated.safetensors"}


def test_a_model_in_several_files_is_fetched_whole(server: Hub, tmp_path: Path) -> None:
    upload_shards(server, tmp_path)
    watch = Recorder()
    loaded = load_model("own/tiny", device="cpu", watch=watch)
    assert loaded.entry.parameters == 42000
    assert watch.done == watch.total == preflight.preflight("own/tiny").download_bytes


def test_a_model_fetched_once_loads_without_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model("own/tiny", device="cpu")
    use_hub(monkeypatch, "http://127.0.0.1:9")
    again = load_model("own/tiny", device="cpu")
    assert (again.weights_sha256, again.revision) == (first.weights_sha256, first.revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    flight = preflight.preflight("own/tiny")
    assert (flight.ready, flight.source, flight.missing_bytes) == (True, "hub, downloaded", 0)
    assert any("cannot be reached" in note for note in flight.notes)


def test_a_model_that_the_hubs_own_tools_fetched_is_not_fetched_again(server: Hub, tmp_path: Path) -> None:
    huggingface_hub.snapshot_download("own/tiny", cache_dir=tmp_path / "cache" / "hub", allow_patterns=hub.PATTERNS)
    server.sent.clear()
    assert load_model("own/tiny", device="cpu").revision == COMMIT
    assert server.sent == {}


def test_what_was_fetched_here_is_found_by_the_hubs_own_tools(server: Hub, tmp_path: Path) -> None:
    folder = Path(load_model("own/tiny", device="cpu").path)
    found = huggingface_hub.try_to_load_from_cache("own/tiny", WEIGHTS, cache_dir=tmp_path / "cache" / "hub")
    assert found == str(folder / WEIGHTS)


def test_a_mirror_that_tells_no_hashes_works_without_resuming(server: Hub) -> None:
    server.hashes = False
    watch = Recorder()
    assert load_model("own/tiny", device="cpu", watch=watch).entry.parameters == 42000
    assert watch.phases == ["downloading", "loading", "proving"]


# --- progress, stopping, going on -------------------------------------------------------------------------------------


def test_progress_is_told_in_bytes_and_phases(server: Hub) -> None:
    watch = Recorder()
    load_model("own/tiny", device="cpu", watch=watch)
    assert watch.phases == ["downloading", "loading", "proving"]
    assert watch.total == preflight.preflight("own/tiny").download_bytes
    assert watch.done == watch.total
    assert watch.total - watch.before == len(server.files[WEIGHTS])
    again = Recorder()
    load_model("own/tiny", device="cpu", watch=again)
    assert again.done == again.before == again.total, "nothing is left to fetch"


def test_a_stopped_download_keeps_its_part_and_goes_on_from_there(server: Hub, tmp_path: Path) -> None:
    server.pause = 0.02
    with pytest.raises(Cancelled):
        load_model("own/tiny", device="cpu", watch=Recorder(stop_after=5 * PIECE))
    until = time.monotonic() + 5
    while partial(tmp_path).stat().st_size < 5 * PIECE and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)  # the last piece under way
    kept = partial(tmp_path).stat().st_size
    assert 5 * PIECE <= kept < len(server.files[WEIGHTS])
    flight = preflight.preflight("own/tiny")
    assert flight.download_bytes - flight.present_bytes == len(server.files[WEIGHTS]) - kept
    server.pause, server.sent = 0.0, {}
    watch = Recorder()
    loaded = load_model("own/tiny", device="cpu", watch=watch)
    assert loaded.weights_sha256 == hashlib.sha256(server.files[WEIGHTS]).hexdigest()
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS]) - kept, "only the rest was sent"
    assert watch.before == watch.total - server.sent[WEIGHTS]


def test_stopping_does_not_wait_for_a_server_that_says_nothing(server: Hub) -> None:
    server.pause = 30.0
    stop = threading.Event()

    class Stopped(Watch):
        def check(self) -> None:
            if stop.is_set():
                raise Cancelled("Stopped.")

    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        load_model("own/tiny", device="cpu", watch=Stopped())
    assert time.monotonic() - started < 5


def test_a_broken_connection_is_taken_up_again_by_itself(server: Hub) -> None:
    server.drop_after, server.drops = 3 * PIECE, 3
    watch = Recorder()
    loaded = load_model("own/tiny", device="cpu", watch=watch)
    assert server.drops == 0
    assert loaded.weights_sha256 == hashlib.sha256(server.files[WEIGHTS]).hexdigest()
    assert watch.done == watch.most == watch.total


def test_a_server_without_ranges_starts_again_and_the_count_is_honest(server: Hub) -> None:
    server.ranges, server.drop_after, server.drops = False, 3 * PIECE, 1
    watch = Recorder()
    loaded = load_model("own/tiny", device="cpu", watch=watch)
    assert loaded.weights_sha256 == hashlib.sha256(server.files[WEIGHTS]).hexdigest()
    assert watch.done == watch.most == watch.total


def test_when_the_network_is_gone_in_the_middle_what_is_here_stays(server: Hub, tmp_path: Path) -> None:
    server.drop_after = 0
    server.sent[WEIGHTS] = 0
    message = refusal("own/tiny")
    assert "connection to the hub was lost" in message
    assert "goes on from there" in message
    server.drop_after, server.drops = 4 * PIECE, 1
    server.pause = 0.0

    class Gone(Recorder):
        """The hub stops answering as soon as some bytes are here."""

        def advance(self, n: int) -> None:
            super().advance(n)
            server.drop_after, server.drops = 0, 10**9

    with pytest.raises(ModelUnavailable, match=r"lost while own/tiny .* of .* are here"):
        load_model("own/tiny", device="cpu", watch=Gone())
    kept = partial(tmp_path).stat().st_size
    assert kept > 0
    server.drop_after, server.sent = None, {}
    load_model("own/tiny", device="cpu")
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS]) - kept


def test_a_part_that_belongs_to_something_else_is_noticed_and_deleted(server: Hub, tmp_path: Path) -> None:
    model = hub.ask("own/tiny")
    part = hub.partial_path(model, model.weights[0])
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert "another SHA-256" in refusal("own/tiny")
    assert list((tmp_path / "cache" / "hub").rglob("*.incomplete")) == []
    assert load_model("own/tiny", device="cpu").revision == COMMIT
    part.write_bytes(b"x" * (model.weights[0].size + 1))  # longer than the file
    hub.blob_path(model, model.weights[0]).unlink()
    assert load_model("own/tiny", device="cpu").revision == COMMIT


def test_two_at_once_fetch_a_file_once(server: Hub) -> None:
    server.pause = 0.01
    model, folders = hub.ask("own/tiny"), []
    threads = [threading.Thread(target=lambda: folders.append(transfer.fetch(model, Watch()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS])


def test_the_pace_of_a_download_is_remembered(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not preflight.preflight("own/tiny").download_pace.measured
    monkeypatch.setattr(pace, "LEAST_BYTES", 1)
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0.0)
    server.pause = 0.005
    load_model("own/tiny", device="cpu")
    seen = pace.pace("download")
    assert seen.measured
    assert seen.bytes_per_second < PIECE / 0.005
    assert pace.pace("load").measured


# --- what is refused --------------------------------------------------------------------------------------------------


def test_without_a_network_the_message_says_so(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refusal("own/tiny")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached" in refusal("own/tiny")


def test_a_name_that_does_not_exist(server: Hub) -> None:
    assert "no public model of that name" in refusal("own/other")


def test_a_gated_model_says_how_to_get_in_and_where(server: Hub) -> None:
    server.gated = True
    message = refusal("own/tiny")
    assert f"gated: accept its licence on {server.address}/own/tiny" in message
    assert "hf auth login" in message
    flight = preflight.preflight("own/tiny")
    assert flight.gated
    assert flight.refusal == message
    assert flight.licence == "apache-2.0"
    assert flight.download_bytes > len(server.files[WEIGHTS]), "what is public is told all the same"


REFUSED_BEFORE = {
    "pickles only": (lambda s: s.files.pop(WEIGHTS), "no model.safetensors"),
    "no configuration": (lambda s: s.files.pop("config.json"), "no config.json"),
    "no tokeniser": (
        lambda s: [s.files.pop(name) for name in ("tokenizer.json", "tokenizer_config.json")],
        "no tokeniser",
    ),
    "damaged configuration": (lambda s: s.files.update({"config.json": b"{"}), "not valid JSON"),
    "an encoder": (lambda s: change_config(s, model_type="bert", architectures=["BertForMaskedLM"]), "is an encoder"),
    "a vision model": (lambda s: change_config(s, model_type="vit"), "not loaded as one that continues a text"),
    "experts": (lambda s: change_config(s, model_type="qwen3_moe", num_experts=4), "mixture of experts"),
    "4 bits": (
        lambda s: change_config(s, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantised (4 bits, bitsandbytes)",
    ),
    "a kind of its own": (lambda s: change_config(s, model_type="own", auto_map={"AutoModel": "m.M"}), "never done"),
}


def change_config(server: Hub, **changes: object) -> None:
    server.files["config.json"] = json.dumps(json.loads(server.files["config.json"]) | changes).encode()


@pytest.mark.parametrize("case", REFUSED_BEFORE)
def test_what_cannot_be_used_is_refused_before_any_weight_is_fetched(server: Hub, case: str) -> None:
    change, said = REFUSED_BEFORE[case]
    change(server)
    assert said in refusal("own/tiny")
    assert server.fetched <= {"config.json"}
    flight = preflight.preflight("own/tiny")
    assert not flight.ready
    assert said in str(flight.refusal)


def test_weight_files_that_the_hub_lacks_are_noticed_before_any_is_fetched(server: Hub, tmp_path: Path) -> None:
    upload_shards(server, tmp_path)
    gone = sorted(name for name in server.files if name.startswith("model-"))[1]
    n_files = len({*json.loads(server.files[INDEX])["weight_map"].values()})
    del server.files[gone]
    assert f"1 of {n_files} weight files are missing ({gone})" in refusal("own/tiny")
    assert not any(name.endswith(".safetensors") for name in server.fetched)


def test_a_model_too_large_for_memory_is_refused_before_anything_is_fetched(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    assert "of memory" in refusal("own/tiny")
    assert server.fetched <= {"config.json"}


def test_a_model_too_large_for_the_disk_is_refused_before_anything_is_fetched(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Full)
    message = refusal("own/tiny")
    assert "on disk" in message
    assert "PPROBE_CACHE" in message
    assert server.fetched <= {"config.json"}


def test_a_disk_that_fills_up_on_the_way_is_said_and_the_part_is_kept(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Recorder):
        def advance(self, n: int) -> None:
            super().advance(n)
            if self.done - self.before > 3 * PIECE:
                raise OSError(28, "No space left on device")

    server.pause = 0.002
    with pytest.raises(ModelUnavailable, match=r"cannot be stored \(No space left on device\)"):
        load_model("own/tiny", device="cpu", watch=Full())
    assert partial(tmp_path).stat().st_size > 3 * PIECE


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_knows_all_before_a_weight_is_fetched(server: Hub, tmp_path: Path) -> None:
    flight = preflight.preflight("own/tiny")
    assert server.fetched == {"config.json"}
    assert flight.ready
    assert (flight.family, flight.n_layers, flight.d_mlp, flight.d_model) == ("qwen3", 3, 56, 32)
    assert (flight.parameters, flight.revision, flight.licence) == (42000, COMMIT, "apache-2.0")
    wanted = [name for name in server.files if name.startswith(("model.", "config", "gen", "tok", "chat"))]
    assert flight.download_bytes == sum(len(server.files[name]) for name in wanted)
    assert flight.present_bytes == len(server.files["config.json"])
    assert flight.disk_free is not None
    assert flight.disk_free > 0
    assert flight.download_seconds == pytest.approx(flight.missing_bytes / pace.ASSUMED["download"])
    assert flight.placement is not None
    assert flight.placement.dtype == "float32"
    assert flight.placement.needed == 4 * 42000 + devices.OVERHEAD
    assert "tiny model of the same family" in flight.checked
    load_model("own/tiny", device="cpu")
    after = preflight.preflight("own/tiny")
    assert (after.source, after.missing_bytes) == ("hub, downloaded", 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_are_counted_from_the_files_where_the_hub_has_not(server: Hub, tmp_path: Path, dtype: str) -> None:
    server.counted = False
    change_config(server, dtype=dtype)
    counted = preflight.preflight("own/tiny").parameters
    width = 4 if dtype == "float32" else 2
    assert counted == len(server.files[WEIGHTS]) // width


def test_the_room_a_hub_model_needs_is_known_before_and_after_it_is_fetched(server: Hub) -> None:
    assert estimated_bytes("own/tiny", device="cpu") == 4 * 42000
    load_model("own/tiny", device="cpu")
    server.asked.clear()
    assert estimated_bytes("own/tiny", device="cpu") == 4 * 42000
    assert server.asked == [], "what is here is counted here"
    assert estimated_bytes("own/other") == 0


def test_the_hub_is_asked_once_for_the_card_and_the_load(server: Hub) -> None:
    preflight.preflight("own/tiny")
    load_model("own/tiny", device="cpu")
    assert sum("/api/models/" in line for line in server.asked) == 1


# --- places and secrets -----------------------------------------------------------------------------------------------


def test_the_hubs_own_cache_is_used_where_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/somewhere")
    assert hub.hub_cache() is None
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("PPROBE_CACHE", "/elsewhere")
    assert hub.hub_cache() == Path("/elsewhere/hub")


def test_an_access_token_is_used_and_never_written_down(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "a" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    flight = preflight.preflight("own/tiny")
    loaded = load_model("own/tiny", device="cpu")
    assert server.tokens == {f"Bearer {token}"}
    assert token not in repr((flight, loaded.entry, loaded.notes, hub.ask("own/tiny")))
    for file in (tmp_path / "cache").rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_an_architecture_of_the_hub_that_loading_cannot_prove_is_refused(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "unusual"
    random_model(tiny_config("mamba")).save_pretrained(folder)
    server.files |= {name: (folder / name).read_bytes() for name in ("config.json", WEIGHTS)}
    assert preflight.preflight("own/tiny").ready, "its configuration alone says nothing against it"
    assert refusal("own/tiny")


def test_a_page_may_look_at_a_model_while_the_worker_imports_the_libraries(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "m", "llama")
    code = (
        "import sys, threading\n"
        "from pprobe_core.models.preflight import preflight\n"
        "from pprobe_core.models.libraries import import_libraries\n"
        "seen = []\n"
        "look = lambda: seen.append(preflight(sys.argv[1]).ready)\n"
        "def load():\n"
        "    import_libraries()\n"
        "    from pprobe_core.models.loading import load_model\n"
        "    seen.append(load_model(sys.argv[1]).family == 'llama')\n"
        "threads = [threading.Thread(target=t) for t in (load, look, look)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(seen)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m"], cwd=settings.ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[True, True, True]", done.stderr
