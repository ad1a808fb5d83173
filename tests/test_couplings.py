"""Plain against norm-aware coupling: what is exact where, and what the summary of a run says about it."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pprobe_core.probing import probe
from pprobe_core.probing.collected import collect
from pprobe_core.probing.couplings import compare_couplings, layer_rows
from pprobe_core.probing.neurons import NeuronScores, score_neurons
from tests.probing_models import SOME_FAMILIES, TEXTS, circuit, loaded_tiny, prompt_set, request, run

POST_NORM_FAMILIES = ("gemma2", "gemma3_text", "olmo2")
LAW = 2e-5  # logits: float32 rounding of a sum over all neurons of a layer


def _scored(family: str) -> tuple[Any, Any, NeuronScores]:
    """The prepared pairs, what was captured of them, and the scores of a tiny model."""
    loaded = loaded_tiny(family)
    prepared = probe.prepare(loaded, circuit(), prompt_set(), request())
    collected = collect(list(probe.capture_blocks(loaded, prepared)), len(prepared.pairs))
    ranked = list(range(len(prepared.pairs)))
    scored = score_neurons(loaded.structure, probe._directions(loaded, prepared), collected, ranked, "plain", 0)
    return prepared, collected, scored


def _written_by_down_projections(family: str, ids: tuple[int, ...]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What each down projection gives at the last position, and the final residual stream there; hooks of our own."""
    model, found = loaded_tiny(family).model, {}
    handles = [
        layer.mlp.down_proj.register_forward_hook(lambda m, a, out, i=i: found.__setitem__(i, out[0, -1].detach()))
        for i, layer in enumerate(model.model.layers)
    ]
    handles.append(model.model.norm.register_forward_pre_hook(lambda m, a: found.__setitem__("final", a[0][0, -1])))
    try:
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return [found[i] for i in range(len(model.model.layers))], found["final"]


@pytest.mark.parametrize("family", POST_NORM_FAMILIES)
def test_norm_aware_importances_are_the_change_of_each_ffn_with_the_norms_held(family: str) -> None:
    """Recomputed from the modules' own outputs: with both norms held at X a layer is linear in its neurons."""
    loaded = loaded_tiny(family)
    prepared, _, scored = _scored(family)
    model, one_plus = loaded.model, 1.0 if family.startswith("gemma") else 0.0
    eps = model.config.rms_norm_eps
    head = model.get_output_embeddings().weight.detach()

    def scale(x: torch.Tensor) -> torch.Tensor:
        return (x.float().pow(2).mean() + eps).rsqrt()

    differences = []
    for i, pair in enumerate(prepared.pairs):
        d = head[list(pair.target_ids)].mean(0) - head[list(pair.control_ids)].mean(0)
        original, final = _written_by_down_projections(family, pair.input_ids_original)
        perturbed, _ = _written_by_down_projections(family, pair.input_ids_perturbed)
        folded = d * (one_plus + model.model.norm.weight.detach()) * scale(final)
        for layer, module in enumerate(model.model.layers):
            gain = one_plus + module.post_feedforward_layernorm.weight.detach()
            held = folded @ (gain * (perturbed[layer] - original[layer])) * scale(original[layer])
            assert scored.sums["norm_aware"][i, layer] == pytest.approx(float(held), abs=LAW)
            differences.append(abs(scored.sums["plain"][i, layer] - float(held)))
    assert max(differences) > 100 * LAW, "plain coupling happens to be right, so this tests nothing"


@pytest.mark.parametrize("family", ["qwen3", *POST_NORM_FAMILIES])
def test_norm_aware_neurons_add_up_to_what_each_ffn_contributes_and_plain_ones_do_not(family: str) -> None:
    _, collected, scored = _scored(family)
    exact = collected.signals.ffn[0].double().numpy()
    assert np.abs(exact).max() > 1000 * LAW
    assert scored.direct_sums["norm_aware"] == pytest.approx(exact, abs=LAW)
    assert np.abs(scored.direct_sums["plain"] - exact).max() > 100 * LAW


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_coupling_of_a_run_and_the_comparison_beside_it_agree(family: str) -> None:
    """Whichever coupling a run has, both are compared, and its own predicted change is the one of its coupling."""
    plain, aware = run(family), run(family, coupling="norm_aware")
    assert plain.summary["couplings"] == aware.summary["couplings"]
    for result in (plain, aware):
        own = result.summary["couplings"][result.request.coupling]
        assert own["sum"] == pytest.approx(result.summary["logit_diff"]["predicted_delta_mean"], abs=1e-9)
        assert own["interval"] == result.summary["logit_diff"]["predicted_delta_interval"]
        exact = result.summary["couplings"]["exact"]["sum"]
        assert exact == pytest.approx(result.summary["additive"]["ffn_mean"], abs=1e-5)
        rows = result.summary["layers"]
        assert sum(row[f"sum_{result.request.coupling}"] for row in rows) == pytest.approx(own["sum"], abs=1e-9)
        assert sum(row["ffn_change"] for row in rows) == pytest.approx(exact, abs=1e-9)
    n_post_norms = plain.summary["couplings"]["n_post_norms"]
    assert n_post_norms == (3 if family in POST_NORM_FAMILIES else 0)


def test_layer_rows_are_means_with_students_interval() -> None:
    exact = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    rows = layer_rows(exact, {"plain": 2 * exact, "norm_aware": exact})
    half = 4.302653 * 2.0 / np.sqrt(3)  # t of two degrees of freedom
    assert rows[0]["ffn_change"] == 3.0
    assert rows[0]["ffn_change_interval"] == pytest.approx([3 - half, 3 + half], abs=1e-4)
    assert (rows[0]["sum_plain"], rows[0]["sum_norm_aware"]) == (6.0, 3.0)
    assert rows[1]["sum_plain_interval"] == [4.0, 4.0]
    assert layer_rows(exact[:1], {"plain": exact[:1], "norm_aware": exact[:1]})[0]["ffn_change_interval"] is None


def _scores(sums: np.ndarray, means: np.ndarray) -> NeuronScores:
    """Scores of which only what the comparison reads is filled in: plain as given, norm-aware half of it."""
    pair = {"plain": sums, "norm_aware": sums / 2}
    return NeuronScores(
        pd.DataFrame(), sums.sum(1), [], {}, 0.0, 0, sums=pair, direct_sums=pair,
        importance_means={"plain": means, "norm_aware": means[::-1, ::-1]},
    )  # fmt: skip


def test_the_comparison_by_hand() -> None:
    exact = np.array([[1.0, -1.0, 2.0], [1.0, -3.0, 2.0]])
    means = np.array([[6.0, 5.0], [4.0, 3.0], [2.0, 1.0]])
    found = compare_couplings(exact, 2 * exact, _scores(2 * exact, means), 3, 2, seed=0)
    assert found["exact"]["sum"] == 1.0
    assert found["plain"]["sum"] == 2.0
    assert (found["plain"]["ratio"], found["plain"]["size"], found["plain"]["missed"]) == (2.0, 2.0, 1.0)
    assert found["plain"]["missed_original"] == 0.0
    assert (found["norm_aware"]["size"], found["norm_aware"]["missed"]) == (1.0, 0.0)
    assert found["norm_aware"]["missed_original"] == 0.5
    assert found["plain"]["correlation_layers"] == pytest.approx(1.0)
    assert found["plain"]["correlation_pairs"] is None  # of two pairs
    assert found["ranks"] == {
        "spearman": pytest.approx(-1.0), "top": 6, "overlap": 6, "chance": 6.0, "n_neurons": 6, "n_pairs": 2,
    }  # fmt: skip
    assert found["n_post_norms"] == 3


def test_no_change_gives_no_ratio() -> None:
    nothing = np.zeros((3, 2))
    found = compare_couplings(nothing, nothing, _scores(nothing, np.zeros((2, 5))), 0, 3, seed=0)
    assert found["plain"]["ratio"] is found["plain"]["size"] is found["plain"]["missed"] is None
    assert found["ranks"]["spearman"] is found["ranks"]["overlap"] is None


def test_identical_prompts_are_told_apart_from_agreement() -> None:
    result = run("gemma3_text", prompt_set([(original, original) for original, _ in TEXTS]))
    couplings = result.summary["couplings"]
    assert couplings["exact"]["sum"] == 0
    assert couplings["norm_aware"]["missed"] is None
    assert couplings["norm_aware"]["missed_original"] == pytest.approx(0, abs=1e-4)
