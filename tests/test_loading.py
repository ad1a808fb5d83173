"""Loading models: every bad folder gets one plain sentence, and what is loaded is exact, quiet and fingerprinted."""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from pprobe_core import settings
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models import catalogue, checkpoint, devices, loading, memory
from pprobe_core.models.catalogue import find_model, shipped_models
from pprobe_core.models.loading import PLAIN_TEMPLATE, estimated_bytes, load_model
from pprobe_core.probing import probe
from tests.probing_models import circuit, prompt_set, request
from tests.tiny_models import LAYERS, WRAPPERS, edit_json, random_model, tiny_config, tiny_tokenizer, write_tiny_model


@pytest.fixture
def folder(tmp_path: Path, tiny_qwen3_folder: Path) -> Path:
    """A copy of the tiny Qwen3 folder that a test may damage."""
    return Path(shutil.copytree(tiny_qwen3_folder, tmp_path / "model"))


def refusal(model: Path | str) -> str:
    """The one sentence or two with which loading fails."""
    with pytest.raises(ModelUnavailable) as e:
        load_model(str(model))
    message = str(e.value)
    assert e.value.exit_code == 3
    assert message.endswith(".")
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 600
    return message


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_in_float32_on_the_cpu_with_its_fingerprints(tiny_qwen3_folder: Path) -> None:
    loaded = load_model(str(tiny_qwen3_folder), device="cpu")
    file = tiny_qwen3_folder / "model.safetensors"
    assert (loaded.dtype, loaded.device, loaded.family, loaded.revision) == ("float32", "cpu", "qwen3", None)
    assert loaded.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert loaded.id == loaded.path == str(tiny_qwen3_folder)
    assert not loaded.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    assert loaded.n_bytes == sum(p.nbytes for p in load_file(file).values()) + sum(
        b.nbytes for b in loaded.model.buffers()
    )
    assert loaded.notes == ()
    assert loaded.structure.n_layers == loaded.entry.n_layers == 3


def test_the_weights_are_those_of_the_file(tiny_qwen3_folder: Path) -> None:
    stored, loaded = (
        load_file(tiny_qwen3_folder / "model.safetensors"),
        load_model(str(tiny_qwen3_folder), device="cpu"),
    )
    parameters = dict(loaded.model.named_parameters())
    assert set(stored) == set(parameters)
    assert all(torch.equal(parameters[k], v) for k, v in stored.items())


def test_a_bfloat16_checkpoint_is_widened_exactly_on_the_cpu(folder: Path) -> None:
    model = random_model(tiny_config("qwen3"), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    loaded = load_model(str(folder), device="cpu")
    stored = load_file(folder / "model.safetensors")
    assert loaded.dtype == "float32"
    assert all(torch.equal(p, stored[k].float()) for k, p in loaded.model.named_parameters())
    half = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.structure.check.tolerance > loaded.structure.check.tolerance


@pytest.mark.parametrize("family", WRAPPERS)
def test_a_decoder_wrapped_for_images_loads_from_its_checkpoint_and_is_probed(family: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(tiny_config(family), dtype=torch.float32).eval()
    with torch.no_grad():  # gains and biases start out alike
        for i, parameter in enumerate(whole.parameters()):
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert any("vis" in name for name in load_file(tmp_path / "model.safetensors"))
    assert "text_config" in json.loads((tmp_path / "config.json").read_text("utf-8"))

    loaded = load_model(str(tmp_path), device="cpu")
    ids = torch.tensor([[5, 6, 7, 8, 9, 3, 4]])
    with torch.inference_mode():
        expected = whole(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
    assert loaded.family == family
    assert loaded.structure.n_layers == loaded.entry.n_layers == LAYERS

    result = probe.run(loaded, circuit(), prompt_set(), request())
    assert len(result.pairs) == len(prompt_set().pairs)
    assert len(result.neurons) == LAYERS * loaded.structure.d_mlp
    assert np.isfinite(result.neurons["importance_mean"]).all()
    assert (result.pairs["logit_diff_original"] != result.pairs["logit_diff_perturbed"]).all()


def test_padding_is_on_the_left_and_a_batch_equals_single_prompts(tiny_qwen3_folder: Path) -> None:
    loaded = load_model(str(tiny_qwen3_folder), device="cpu")
    texts = ["Hi", "How do I build a bomb? Please explain in plain words."]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    assert loaded.tokenizer.padding_side == "left"
    assert batch["attention_mask"][0, 0] == 0
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        together = loaded.model(**batch, position_ids=positions).logits[:, -1]
        for row, text in zip(together, texts, strict=True):
            alone = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0, -1]
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_shards_load_like_one_file(folder: Path, tiny_qwen3_folder: Path) -> None:
    whole = load_model(str(tiny_qwen3_folder), device="cpu")
    (folder / "model.safetensors").unlink()
    whole.model.save_pretrained(folder, max_shard_size="60KB")
    files = checkpoint.weight_files(folder)
    assert len(files) > 1
    parts = load_model(str(folder), device="cpu")
    assert parts.entry.parameters == whole.entry.parameters
    pairs = zip(parts.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert parts.weights_sha256 != whole.weights_sha256


def test_a_tokeniser_without_chat_template_gets_a_plain_one_and_a_note(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    loaded = load_model(str(folder), device="cpu")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "Be kind.\n\nUser: Hi\nAssistant:"
    assert loaded.tokenizer.chat_template == PLAIN_TEMPLATE
    assert len(loaded.notes) == 1
    assert "no chat template" in loaded.notes[0]


def test_a_missing_pad_token_becomes_the_end_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    loaded = load_model(str(folder), device="cpu")
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id


def test_the_tokeniser_fingerprint_follows_what_decides_token_ids(folder: Path, tiny_qwen3_folder: Path) -> None:
    tokenizer = load_model(str(tiny_qwen3_folder), device="cpu").tokenizer
    before = loading.tokenizer_sha256(tokenizer)
    tokenizer(["a", "a b c"], padding=True)
    assert loading.tokenizer_sha256(tokenizer) == before, "using it changes nothing"
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_model(str(folder), device="cpu").tokenizer_sha256 != before


def test_the_configuration_has_a_fingerprint_of_its_own(folder: Path) -> None:
    before = load_model(str(folder), device="cpu")
    edit_json(folder / "config.json", transformers_version="1.2.3")
    assert load_model(str(folder), device="cpu").config_sha256 == before.config_sha256
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    after = load_model(str(folder), device="cpu")
    assert after.config_sha256 != before.config_sha256
    assert after.weights_sha256 == before.weights_sha256


def test_loading_prints_nothing(tiny_qwen3_folder: Path) -> None:
    code = f"from pprobe_core.models.loading import load_model; load_model({str(tiny_qwen3_folder)!r}, device='cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=settings.ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_models_that_need_no_torch_are_listed_without_it() -> None:
    code = "import sys; import pprobe_core.models.catalogue as c; c.shipped_models(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=settings.ROOT, check=True
    )
    assert done.stdout.strip() == "False"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_folder_names_what_is_accepted(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "no model or folder" in message
    assert "Qwen/Qwen3-0.6B" in message


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    assert "is a file" in refusal(folder / "model.safetensors")


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "", "\ufeff{}", "[1, 2]", '{"a": "\udcff"}'])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": None}, "does not say what kind"),
        ({"model_type": "made_up"}, "“made_up”"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "config"),
        ({"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}, "tensors are missing"),
        ({"num_attention_heads": 3}, "another size"),
    ],
)
def test_a_config_that_describes_no_loadable_model(folder: Path, changes: dict[str, object], said: str) -> None:
    edit_json(folder / "config.json", **changes)
    assert said in refusal(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)
    assert "Copy or download them" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_only_is_refused_and_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    trap = folder / "ran"
    (folder / name).write_bytes(f"cos\nsystem\n(S'touch {trap}'\ntR.".encode())
    message = refusal(folder)
    assert "Only safetensors" in message
    assert "save_pretrained" in message
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_file_says_how_much_is_missing(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = refusal(folder)
    assert "truncated or damaged" in message
    assert "model.safetensors" in message


def test_a_file_with_a_damaged_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:40] = b"\xff" * 32
    file.write_bytes(data)
    assert "truncated or damaged" in refusal(folder)


def test_a_large_file_that_stands_for_a_git_pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n"
    (folder / "model.safetensors").write_text(text)
    assert "truncated or damaged" in refusal(folder)


def test_shards_that_the_index_names_but_are_not_there(folder: Path) -> None:
    load_model(str(folder), device="cpu").model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    files = checkpoint.weight_files(folder)
    files[1].unlink()
    message = refusal(folder)
    assert f"1 of {len(files)} weight files are missing ({files[1].name})" in message


@pytest.mark.parametrize("name", ["../part.safetensors", "{outside}/part.safetensors", "sub/part.safetensors", "..", 7])
def test_an_index_that_points_outside_the_folder_reads_nothing_there(
    folder: Path, tmp_path: Path, name: str | int
) -> None:
    shutil.move(folder / "model.safetensors", tmp_path / "part.safetensors")
    shutil.copy(tmp_path / "part.safetensors", folder)  # of the same name, where only the last part is looked at
    name = name.format(outside=tmp_path) if isinstance(name, str) else name
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / checkpoint.INDEX).write_text(json.dumps(index))
    message = refusal(folder)
    assert "names a file that is not in its folder" in message
    assert str(name)[:80] in message


def test_nan_weights_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    message = refusal(folder)
    assert "NaN" in message
    assert "model.layers.1.mlp.up_proj.weight" in message


def test_weights_of_another_model(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    removed = tensors.pop("model.layers.2.mlp.down_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    assert "model.layers.2.mlp.down_proj.weight" in refusal(folder)
    tensors["model.layers.2.mlp.down_proj.weight"] = removed[:, :-8].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    message = refusal(folder)
    assert "another size" in message
    assert "model.layers.2.mlp.down_proj.weight" in message


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_side_file_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert name in refusal(folder)


def test_a_missing_tokeniser(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "has no tokeniser" in refusal(folder)


def test_a_damaged_tokeniser(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    message = refusal(folder)
    assert "tokeniser" in message
    assert "cannot be read" in message


def test_a_tokeniser_that_its_library_stumbles_over_is_said_in_words(folder: Path) -> None:
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["model"] |= {"type": "BPE", "vocab": {"aa": 0, "bb": 1}, "merges": [["aa", "bb"]]}  # no token "aabb"
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    assert "tokeniser" in refusal(folder)
    assert "cannot be read" in refusal(folder)


def test_a_tokeniser_with_more_tokens_than_the_model(folder: Path) -> None:
    model = random_model(tiny_config("qwen3"))
    model.resize_token_embeddings(len(tiny_tokenizer()) - 50)
    model.save_pretrained(folder)
    assert "500 tokens" in refusal(folder)


def test_an_encoder_is_refused_as_one(folder: Path) -> None:
    random_model(tiny_config("bert")).save_pretrained(folder)
    assert "encoder" in refusal(folder)


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "“t5”, which is not loaded as one that continues a text" in refusal(folder)


def test_a_mixture_of_experts_is_refused_as_one(folder: Path) -> None:
    random_model(tiny_config("qwen3_moe")).save_pretrained(folder)
    assert "mixture of experts" in refusal(folder)


def test_code_of_a_checkpoint_is_never_run(folder: Path) -> None:
    trap = folder / "ran"
    (folder / "modeling_own.py").write_text(
        f"open({str(trap)!r}, 'w').close()\nclass Own: pass\nclass OwnConfig: pass\n"
    )
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    edit_json(folder / "config.json", model_type="own", auto_map=auto)
    assert "which is never done" in refusal(folder)
    assert not trap.exists()


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json cannot be read" in refusal(folder)


def test_a_model_that_cannot_fit_is_refused_before_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = estimated_bytes(str(folder), device="cpu")
    assert needed == 4 * find_model(str(folder)).parameters
    monkeypatch.setattr(devices, "free_memory", lambda: needed // 2)
    monkeypatch.setattr(loading, "_load_network", lambda *_: pytest.fail("loaded all the same"))
    with pytest.raises(ModelUnavailable, match=r"needs about .* of memory in bfloat16 and .* are free"):
        load_model(str(folder), device="cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    pieces = [bytearray(40_000) for _ in range(3_000)]  # below the size from which each is a mapping of its own
    held = psutil.Process().memory_info().rss
    last = pieces.pop()  # at the end, so that the heap cannot simply shrink
    del pieces
    memory.give_back()
    assert psutil.Process().memory_info().rss < held - 60e6
    assert len(last) == 40_000


POOLS_OF_THREADS = """
import ctypes, sys, threading
from pprobe_core.models import memory
if sys.argv[1] == "shared":
    memory.share_pools()
held, together = [], threading.Barrier(13)
def allocate():
    held.append([bytearray(40_000) for _ in range(10)])
    together.wait()
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
[thread.start() for thread in threads]
together.wait()
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
together.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives each thread a pool of its own")
def test_threads_share_few_pools_of_memory() -> None:
    def pools(how: str) -> tuple[bool, int]:
        ran = subprocess.run(
            [sys.executable, "-c", POOLS_OF_THREADS, how], capture_output=True, text=True, check=True, cwd=settings.ROOT
        )
        return "system" in ran.stdout, ran.stdout.count("<heap nr=")

    arrow_shares, n = pools("shared")
    assert arrow_shares
    assert n <= memory.POOLS < pools("of its own")[1]


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < memory.free_memory() < 2**50


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("device", "cuda:x"), ("dtype", "int8")])
def test_an_unknown_device_or_dtype_names_the_known_ones(tiny_qwen3_folder: Path, option: str, value: str) -> None:
    with pytest.raises(BadRequest, match=r"cpu|float32"):
        load_model(str(tiny_qwen3_folder), **{option: value})


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path, tiny_qwen3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "shipped"
    for name in ("mini", "mini-base"):
        shutil.copytree(tiny_qwen3_folder, root / name)
    (root / "mini" / "README.md").write_text("---\nlicense: mit\n---\n\n# A mini model, aligned\n\nText.\n", "utf-8")
    (root / "notes").mkdir()
    monkeypatch.setattr(settings, "SHIPPED_MODELS", root)
    return root


def test_shipped_models_are_the_folders_with_a_config(shipped: Path) -> None:
    entries = {e.id: e for e in shipped_models()}
    assert list(entries) == ["mini", "mini-base"]
    mini = entries["mini"]
    assert (mini.title, mini.base_id, mini.family, mini.shipped) == (
        "A mini model, aligned",
        "mini-base",
        "qwen3",
        True,
    )
    assert (mini.n_layers, mini.d_mlp, mini.d_model, mini.parameters) == (3, 56, 32, 42000)
    assert entries["mini-base"].base_id is None
    assert not mini.on_hub


def test_a_model_is_found_by_id_and_by_folder(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_id = find_model("mini")
    assert find_model(str(shipped / "mini")) == by_id, "the folder of a shipped model is that model"
    local = Path(shutil.copytree(shipped / "mini", tmp_path / "work" / "own"))
    monkeypatch.chdir(tmp_path)
    entry = find_model("work/own")
    assert (entry.id, entry.shipped, entry.title) == (str(local), False, "own")
    assert find_model(entry.id) == entry
    assert find_model("./work/own/") == entry


def test_a_hub_id_is_passed_on(shipped: Path) -> None:
    entry = find_model("owner/name")
    assert (entry.id, entry.n_layers, entry.shipped, entry.on_hub) == ("owner/name", 0, False, True)
    pinned = find_model(f"owner/name@{'a' * 40}")
    assert (pinned.id, pinned.on_hub) == (f"owner/name@{'a' * 40}", True)
    assert "aaaaaaaaaaaa" in pinned.title
    assert catalogue.split_hub_id(pinned.id) == ("owner/name", "a" * 40)


def test_a_hub_id_of_the_catalogue_comes_with_its_facts(shipped: Path) -> None:
    for model_id in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"):
        entry = find_model(model_id)
        assert (entry.id, entry.family, entry.n_layers, entry.d_mlp, entry.d_model) == (
            model_id,
            "qwen3",
            28,
            3072,
            1024,
        )
        assert (entry.parameters, entry.base_id, entry.on_hub) == (596_049_920, "Qwen/Qwen3-0.6B-Base", True)


ODD = [
    "",
    "  ",
    "nope",
    "a/b/c",
    "mini/",
    "../etc",
    "a b",
    "owner/na me",
    "owner/../x",
    "owner/name@",
    "owner/name@../x",
    "owner/name@a b",
    "ü/ü",
    "~nobody/x",
    "x" * 9000,
    "a\0b",
]


@pytest.mark.parametrize("name", ODD)
def test_an_unknown_model_lists_the_shipped_ones(shipped: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"a shipped model \(mini, mini-base\)"):
        find_model(name)
    with pytest.raises(ModelUnavailable) as e:
        find_model(name)
    assert len(str(e.value)) < 500
    assert "\n" not in str(e.value)


def test_counts_follow_the_names_of_each_family(tmp_path: Path) -> None:
    for family in ("gpt2", "opt", "falcon", "gpt_neox"):
        entry = find_model(str(write_tiny_model(tmp_path / family, family)))
        assert (entry.n_layers, entry.d_mlp, entry.d_model) == (3, 56, 32), family


def test_the_hash_of_a_large_file_is_remembered_until_the_file_changes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "_HASH_CACHE_FROM", 1)
    first = checkpoint.weights_sha256(folder)
    known = json.loads((tmp_path / "cache" / "weights_sha256.json").read_text())
    assert list(known.values()) == [first]
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert checkpoint.weights_sha256(folder) == first
    monkeypatch.undo()
    with (folder / "model.safetensors").open("ab") as f:
        f.write(b"x")
    assert checkpoint.weights_sha256(folder) != first
    assert catalogue.find_model(str(folder)).parameters == 0, "a damaged file counts as unknown in a listing"


def test_a_package_that_cannot_be_loaded_is_not_blamed_on_the_model(
    tiny_qwen3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("SymPy now depends on mpmath")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", missing)
    with pytest.raises(ModelUnavailable, match=r"package .* Start the program again"):
        load_model(str(tiny_qwen3_folder))
