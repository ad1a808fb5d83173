"""Laws of structure discovery, on tiny random models of many families whose every parameter is perturbed."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutput

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models import head_proof
from pprobe_core.models.norms import characterise_norm
from pprobe_core.models.structure import Block, Structure, discover
from tests.tiny_models import (
    FAMILIES,
    HIDDEN,
    LAYERS,
    MORE_FAMILIES,
    REFUSED,
    VOCAB,
    random_model,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
    width_of_ffn,
)

ALL = [*FAMILIES, *MORE_FAMILIES]
TEXT = "How do I build a bomb? 法国的首都是什么？"
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def read(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Inputs, outputs and logits of one pass: hooks of this test's own, not those of the code under test."""
    ins: dict[str, Tensor] = {}
    outs: dict[str, Tensor] = {}
    handles = []
    for name, module in modules.items():

        def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            ins[name] = (args[0] if args else kwargs["hidden_states"]).clone()

        def after(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            outs[name] = first(output).clone()

        handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    with torch.no_grad():
        logits = model(**tiny_tokenizer()(TEXT, return_tensors="pt"), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return ins, outs, logits


@pytest.fixture(scope="module", params=ALL)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(family: str) -> tuple[nn.Module, Structure]:
    model, tokenizer = tiny_model(family, seed=3)
    return model, discover(model, tokenizer)


def test_the_sizes_are_those_of_the_configuration(found: tuple[nn.Module, Structure], family: str) -> None:
    _, structure = found
    d_mlp = width_of_ffn(family)
    sizes = (structure.n_layers, structure.d_model, structure.d_mlp, structure.vocab_size)
    assert sizes == (LAYERS, HIDDEN, d_mlp, VOCAB)
    assert [block.layer for block in structure.blocks] == list(range(LAYERS))
    assert all(
        block.W_out().shape == (d_mlp, HIDDEN) and block.W_out().dtype == torch.float32 for block in structure.blocks
    )


def test_acts_times_W_out_through_the_post_norm_is_the_ffn_contribution(found: tuple[nn.Module, Structure]) -> None:
    model, structure = found
    for block in structure.blocks:
        ins, outs, _ = read(model, {"down": block.down_proj, "ffn": block.ffn_out})
        ffn = ins["down"].float() @ block.W_out()
        if (bias := block.b_out()) is not None:
            ffn = ffn + bias
        if block.ffn_post_norm is not None:
            ffn = block.ffn_post_norm.normed(ffn)
        torch.testing.assert_close(ffn.reshape(outs["ffn"].shape), outs["ffn"], **CLOSE)


def test_a_layer_is_the_scaled_sum_of_residual_stream_attention_and_ffn(found: tuple[nn.Module, Structure]) -> None:
    model, structure = found
    for b in structure.blocks:
        ins, outs, _ = read(model, {"layer": b.module, "attention": b.attention_out, "ffn": b.ffn_out})
        total = (
            ins["layer"] + b.attention_scale * outs["attention"] + b.ffn_scale * outs["ffn"].reshape(ins["layer"].shape)
        )
        torch.testing.assert_close(b.resid_scale * total, outs["layer"], **CLOSE)
        assert outs["attention"].abs().max() > 1e-3
        assert outs["ffn"].abs().max() > 1e-3


def test_each_layer_receives_what_the_one_before_returned(found: tuple[nn.Module, Structure]) -> None:
    model, structure = found
    ins, outs, _ = read(model, {str(b.layer): b.module for b in structure.blocks})
    for i in range(1, LAYERS):
        assert torch.equal(ins[str(i)], outs[str(i - 1)])


def test_final_norm_and_unembedding_reproduce_the_models_logits(found: tuple[nn.Module, Structure]) -> None:
    model, structure = found
    _, outs, logits = read(model, {"last": structure.blocks[-1].module})
    ids = [0, 5, VOCAB - 1, 5]
    h = outs["last"].reshape(-1, HIDDEN)
    mean = h.mean(-1, keepdim=True) if structure.final_norm.centred else 0.0
    normed = (h - mean) * structure.final_norm.scale(h)[:, None] * structure.final_norm.gain
    normed = normed if structure.final_norm.bias is None else normed + structure.final_norm.bias
    recomputed = normed @ structure.unembed_rows(ids).T
    if (bias := structure.unembed_bias(ids)) is not None:
        recomputed = recomputed + bias
    if structure.softcap is not None:
        recomputed = structure.softcap * torch.tanh(recomputed / structure.softcap)
    torch.testing.assert_close(recomputed, logits[:, ids], **CLOSE)


def test_the_self_check_is_stored_and_tight_in_float32(found: tuple[nn.Module, Structure]) -> None:
    check = found[1].check
    errors = (check.ffn_error, check.layer_error, check.head_error, check.norm_error)
    assert max(errors) < 1e-5 < check.tolerance


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3", "cohere", "granite", "gpt2", "opt", "bloom", "phi"])
def test_one_token_proves_the_same_way_to_the_logits_as_all(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model(family)
    assert [head_proof.n_compared(n) for n in (VOCAB, 30_000, 151_936)] == [64, 2, 1]  # 64: all of the prompt
    every = discover(model, tokenizer)
    monkeypatch.setattr(head_proof, "_MIN_LOGITS", 1)
    one = discover(model, tokenizer)
    assert (one.logit_scale, one.softcap) == (every.logit_scale, every.softcap)
    assert (one.final_norm.eps, one.final_norm.centred) == (every.final_norm.eps, every.final_norm.centred)
    assert max(one.check.head_error, every.check.head_error) < 1e-5


@pytest.mark.parametrize("token", [0, 7, VOCAB - 1])
def test_one_token_shows_a_single_logit_that_the_unembedding_does_not_give(
    token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model("qwen3")
    monkeypatch.setattr(head_proof, "_MIN_LOGITS", 1)

    def shifted(module: nn.Module, args: Any, output: Any) -> Any:
        output.logits[..., token] += 0.1 * output.logits.std()
        return output

    model.register_forward_hook(shifted)
    with pytest.raises(ModelUnavailable, match="logits cannot be recomputed"):
        discover(model, tokenizer)


def test_neighbouring_rows_of_the_unembedding_are_those_asked_for_one_by_one() -> None:
    for family in ("cohere", "gptj"):  # with a scale, with a bias
        structure = discover(*tiny_model(family))
        ids = range(3, 40)
        assert torch.equal(structure.unembed_rows(ids), structure.unembed_rows(list(ids)))
        bias, picked = structure.unembed_bias(ids), structure.unembed_bias(list(ids))
        assert (bias is None) == (picked is None) == (family == "cohere")
        assert bias is None or picked is None or torch.equal(bias, picked)


def test_discovery_leaves_no_hooks_and_changes_no_weights() -> None:
    model, tokenizer = tiny_model("gemma2")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    discover(model, tokenizer)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "olmo2", "gpt2", "cohere", "granite", "gemma4_text", "nanochat"])
def test_low_precision_models_are_proved_within_their_tolerance(family: str, dtype: torch.dtype) -> None:
    exact = discover(*tiny_model(family))
    structure = discover(random_model(tiny_config(family), dtype=dtype), tiny_tokenizer())
    check = structure.check
    assert max(check.ffn_error, check.layer_error, check.head_error, check.norm_error) < check.tolerance
    assert structure.blocks[0].W_out().dtype == structure.unembed_rows([1]).dtype == torch.float32
    assert (structure.logit_scale, structure.softcap) == (exact.logit_scale, exact.softcap)
    scales = [(b.resid_scale, b.attention_scale, b.ffn_scale) for b in structure.blocks]
    assert scales == [(b.resid_scale, b.attention_scale, b.ffn_scale) for b in exact.blocks]


def test_what_differs_between_families_is_found() -> None:
    found = {
        f: discover(*tiny_model(f)) for f in ("gemma2", "granite", "cohere", "gemma4_text", "gpt2", "opt", "llama")
    }
    assert {f: s.softcap for f, s in found.items() if s.softcap} == {"gemma2": 30.0}
    assert found["granite"].blocks[0].ffn_scale == pytest.approx(0.22)
    assert found["granite"].logit_scale == pytest.approx(1 / 8)
    assert found["cohere"].logit_scale == pytest.approx(0.25)
    assert found["gemma4_text"].blocks[0].resid_scale == pytest.approx(0.75)
    assert found["gpt2"].blocks[0].weight_is_in_out
    assert found["gpt2"].final_norm.centred
    assert found["gpt2"].final_norm.bias is not None
    assert found["opt"].blocks[0].b_out() is not None
    assert [f for f, s in found.items() if s.blocks[0].ffn_post_norm] == ["gemma2", "gemma4_text"]


def rename_everything(model: nn.Module) -> None:
    """Give every child of every module, the model's own included, a name that says nothing."""
    numbers = itertools.count()
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        names = {}
        for usual in list(module._modules):
            names[usual] = f"thing_{next(numbers)}"
            module._modules[names[usual]] = module._modules.pop(usual)
        aliases = {usual: property(lambda self, odd=odd: self._modules[odd]) for usual, odd in names.items()}
        module.__class__ = type(f"Thing{next(numbers)}", (type(module),), aliases)


def test_no_part_is_found_by_its_name(family: str, found: tuple[nn.Module, Structure]) -> None:
    model, before = found
    renamed = tiny_model(family, seed=3)[0]
    places = {module: place for place, module in enumerate(renamed.modules())}
    rename_everything(renamed)
    names = {part for name, _ in renamed.named_modules() for part in name.split(".") if not part.isdigit()}
    assert all(name.startswith("thing_") for name in names - {""})
    after = discover(renamed, tiny_tokenizer())
    expected = {module: place for place, module in enumerate(model.modules())}
    for one, two in zip(before.blocks, after.blocks, strict=True):
        for part in ("module", "attention_out", "attention_proj", "ffn_out", "down_proj"):
            assert places.get(getattr(two, part)) == expected.get(getattr(one, part)), part
        assert (one.resid_scale, one.attention_scale, one.ffn_scale) == (
            two.resid_scale,
            two.attention_scale,
            two.ffn_scale,
        )
    assert (after.softcap, after.logit_scale, after.check) == (before.softcap, before.logit_scale, before.check)


class _Knead(nn.Module):
    """Causal attention of a home-made decoder, fed and called by odd names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sesame, self.poppy = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, *, dough: Tensor) -> Tensor:
        q, k, v = self.sesame(dough).chunk(3, dim=-1)
        return self.poppy(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))


class _Loaf(nn.Module):
    """A layer whose feed-forward is written out, comes first, and is normalised before it is added."""

    def __init__(self, width: int, n_neurons: int) -> None:
        super().__init__()
        self.crumb, self.crust, self.glaze = (nn.RMSNorm(width, eps=1e-5) for _ in range(3))
        self.yeast = nn.Parameter(torch.randn(n_neurons, width) / width**0.5)
        self.salt, self.rye = nn.Linear(n_neurons, width), _Knead(width)
        self.pinch = 0.35

    def forward(self, *, oven: Tensor, heat: int) -> Tensor:
        neurons = nn.functional.silu(self.crumb(oven) @ self.yeast.T)
        oven = oven + self.pinch * self.glaze(self.salt(neurons))
        return oven + self.pinch * self.rye(dough=self.crust(oven))


class _Bakery(nn.Module):
    """A home-made causal language model: odd names throughout, a soft-cap that is not called one."""

    def __init__(self) -> None:
        super().__init__()
        self.flour, self.shelf = nn.Embedding(VOCAB, HIDDEN), nn.Sequential(*(_Loaf(HIDDEN, 40) for _ in range(LAYERS)))
        self.sugar, self.window = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCAB, bias=False)
        self.tins = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(LAYERS))  # as many, and never used
        self.config = PreTrainedConfig(num_hidden_layers=LAYERS, doors=3.5)

    def get_input_embeddings(self) -> nn.Module:
        return self.flour

    def get_output_embeddings(self) -> nn.Module:
        return self.window

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> CausalLMOutput:
        x = self.flour(input_ids)
        for loaf in self.shelf:
            x = loaf(heat=220, oven=x)
        return CausalLMOutput(logits=3.5 * torch.tanh(self.window(self.sugar(x)) / 3.5))


def test_a_home_made_decoder_is_proved() -> None:
    torch.manual_seed(0)
    model = _Bakery().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    structure = discover(model, tiny_tokenizer())
    for block, layer in zip(structure.blocks, model.shelf, strict=True):
        assert (block.down_proj, block.ffn_out, block.attention_out) == (layer.salt, layer.glaze, layer.rye)
        assert block.attention_proj is layer.rye.poppy
        assert block.ffn_post_norm is not None
        assert block.ffn_scale == block.attention_scale == pytest.approx(0.35)
    assert (structure.final_norm.module, structure.softcap, structure.d_mlp) == (model.sugar, 3.5, 40)
    check = structure.check
    assert max(check.ffn_error, check.layer_error, check.head_error, check.norm_error) < 1e-5


def test_a_post_norm_is_told_by_what_it_is_fed_not_by_its_name() -> None:
    """`post_attention_layernorm` is the feed-forward's input norm in Llama and attention's post-norm in Gemma 2."""
    llama, gemma = tiny_model("llama")[0], tiny_model("gemma2")[0]
    assert discover(llama, tiny_tokenizer()).blocks[0].attention_out is llama.model.layers[0].self_attn
    post = gemma.model.layers[0].post_attention_layernorm
    assert discover(gemma, tiny_tokenizer()).blocks[0].attention_out is post


@pytest.mark.parametrize("family", list(REFUSED))
def test_an_architecture_that_does_not_fit_is_refused_with_its_reason(family: str) -> None:
    with pytest.raises(ModelUnavailable, match=REFUSED[family][2]) as e:
        discover(random_model(tiny_config(family)), tiny_tokenizer())
    assert "not supported" in str(e.value)
    assert "Choose a dense" in str(e.value)
    assert "\n" not in str(e.value)


def test_weights_that_are_not_numbers_are_named() -> None:
    for value in (float("nan"), float("inf")):
        model, tokenizer = tiny_model("qwen3")
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[3, 4] = value
        with pytest.raises(ModelUnavailable, match=r"1 of 1,792 values in model\.layers\.1\.mlp\.down_proj\.weight"):
            discover(model, tokenizer)


def test_a_model_without_layers_is_refused() -> None:
    config = tiny_config("llama")
    config.num_hidden_layers = 0
    with pytest.raises(ModelUnavailable, match="no number of layers"):
        discover(random_model(config), tiny_tokenizer())


def test_a_model_of_one_layer_is_proved() -> None:
    config = tiny_config("llama")
    config.num_hidden_layers = 1
    assert discover(random_model(config), tiny_tokenizer()).n_layers == 1


def test_a_missing_tokeniser_does_not_stop_the_proof() -> None:
    assert discover(tiny_model("qwen3")[0], None).n_layers == LAYERS


def test_large_finite_weights_are_not_called_damaged() -> None:
    model = random_model(tiny_config("llama"), dtype=torch.float16)
    with torch.no_grad():
        model.model.embed_tokens.weight[400:].fill_(
            60000.0
        )  # rows of tokens that do not occur; their sum overflows float16
    assert discover(model, tiny_tokenizer()).n_layers == LAYERS


def test_values_that_overflow_in_the_chosen_dtype_are_reported_as_such() -> None:
    model = random_model(tiny_config("llama"), dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(60000.0)
    with pytest.raises(ModelUnavailable, match="not numbers in float16"):
        discover(model, tiny_tokenizer())


def test_a_down_projection_shared_between_layers_is_refused() -> None:
    model, tokenizer = tiny_model("llama")
    model.model.layers[2].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight
    with pytest.raises(ModelUnavailable, match="share the weights"):
        discover(model, tokenizer)


def test_offloaded_weights_are_refused() -> None:
    model, tokenizer = tiny_model("llama")
    model.model.layers[2].to("meta")
    with pytest.raises(ModelUnavailable, match="does not fit in memory"):
        discover(model, tokenizer)


def test_quantised_weights_are_refused() -> None:
    model, tokenizer = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ModelUnavailable, match="quantised"):
        discover(model, tokenizer)
    model, tokenizer = tiny_model("llama")
    weight = model.model.layers[0].mlp.down_proj.weight
    model.model.layers[0].mlp.down_proj.weight = nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelUnavailable, match="float8_e4m3fn"):
        discover(model, tokenizer)


class _ExtraWriter(nn.Module):
    """A decoder layer to whose output something else is added."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp, self._layer = layer.self_attn, layer.mlp, [layer]

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return first(self._layer[0](hidden_states, **kwargs)) + 0.05 * hidden_states.roll(1, -1)


def test_an_extra_writer_inside_a_layer_is_found() -> None:
    model, tokenizer = tiny_model("llama")
    model.model.layers[1] = _ExtraWriter(model.model.layers[1])
    with pytest.raises(ModelUnavailable, match="layer 1"):
        discover(model, tokenizer)


def test_an_extra_writer_between_layers_is_found() -> None:
    model, tokenizer = tiny_model("llama")
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + 0.01, *args[1:]))
    with pytest.raises(ModelUnavailable, match="between layers 0 and 1"):
        discover(model, tokenizer)


def test_a_mistake_on_one_small_token_is_not_hidden_by_a_massive_one() -> None:
    """Errors count per token: one huge activation must not make an unexplained write elsewhere look small."""
    model, tokenizer = tiny_model("llama")

    def write(_: nn.Module, args: Any, output: Any) -> Any:
        out = first(output).clone()
        out[:, 5] = out[:, 5] + 0.3
        return out

    with torch.no_grad():
        start = tokenizer("The quick")["input_ids"][0]
        model.model.embed_tokens.weight[start] *= 1e4
    discover(model, tokenizer)
    model.model.layers[1].register_forward_hook(write)
    with pytest.raises(ModelUnavailable, match="layer 1"):
        discover(model, tokenizer)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", ["weight", "one_plus", "none"])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_a_norm_is_characterised_by_probing(centred: bool, kind: str, eps: float) -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.variance_epsilon = eps
            self.w = nn.Parameter(0.3 * torch.randn(HIDDEN)) if kind != "none" else None
            self.b = nn.Parameter(torch.randn(HIDDEN)) if centred and kind == "weight" else None

        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True) if centred else x
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
            x = x if self.w is None else x * (self.w if kind == "weight" else 1 + self.w)
            return x if self.b is None else x + self.b

    module = Some()
    norm, error = characterise_norm(module, HIDDEN, torch.float32, torch.device("cpu"), "n", "m")
    x = torch.randn(2, 3, HIDDEN) * torch.tensor([1e-3, 1.0, 50.0])[:, None]
    torch.testing.assert_close(norm.normed(x), module(x), rtol=1e-4, atol=1e-5)
    assert (norm.centred, norm.eps, norm.bias is not None) == (centred, eps, module.b is not None)
    assert norm.scale(x).shape == (2, 3)
    assert error < 1e-5


def test_gains_near_one_are_kept_and_not_rounded_to_one() -> None:
    module = nn.RMSNorm(HIDDEN, eps=1e-6, dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.copy_(1 + 0.01 * torch.randn(HIDDEN))
    norm, _ = characterise_norm(module, HIDDEN, torch.bfloat16, torch.device("cpu"), "n", "m")
    assert torch.equal(norm.gain, module.weight.detach().float())


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="neither RMS nor LayerNorm"):
        characterise_norm(nn.Tanh(), HIDDEN, torch.float32, torch.device("cpu"), "n", "m")


def test_W_out_of_float32_models_is_a_view_so_that_nothing_is_copied() -> None:
    model, tokenizer = tiny_model("llama")
    block: Block = discover(model, tokenizer).blocks[0]
    assert block.W_out().data_ptr() == model.model.layers[0].mlp.down_proj.weight.data_ptr()
