"""All SQL of finished runs: written once, read as DataFrames, deleted as a whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Float

from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import RANKINGS, ProbeRequest, ProbeResult, Ranking
from pprobe_core.store.database import utc_now
from pprobe_core.store.plain import plain
from pprobe_core.store.sweeps import RUN_TABLES, Sweeps, drop_sweep, stays_deleted

TABLES = ("pairs", "first_tokens", "layer_signals", "neuron_scores", "token_preview")

PAIR_COLUMNS = (
    "idx", "pair_id", "split", "original_text", "perturbed_text", "original_prompt", "perturbed_prompt",
    "input_ids_original", "input_ids_perturbed", "tokens_original", "tokens_perturbed", "target_ids", "control_ids",
    "logit_diff_original", "logit_diff_perturbed", "predicted_delta", "constant_original", "constant_perturbed",
    "ffn_skip_original", "ffn_skip_perturbed", "flipped", "covered_original", "covered_perturbed",
    "response_original", "response_perturbed", "class_original", "class_perturbed", "note",
)  # fmt: skip
FIRST_TOKEN_COLUMNS = ("pair_id", "condition", "rank", "token_id", "token", "probability", "side")
LAYER_MEASURES = ("attention", "ffn", "skip", "ffn_skip", "attention_skip", "lens_after_attention", "lens_after_ffn")
LAYER_COLUMNS = ("pair_id", "condition", "layer", *LAYER_MEASURES)
NEURON_COLUMNS = (
    "layer", "neuron", "coupling", "importance_mean", "importance_rms", "sign_consistency", "coherence",
    "act_original_mean", "act_perturbed_mean", "zeroing_effect", "ablation_score",
)  # fmt: skip
PREVIEW_COLUMNS = ("side", "string", "ids", "pieces", "used", "note")

# Ties break by (layer, neuron), so the same run always gives the same order.
ORDER_BY: Mapping[str, str] = {
    "shared": "abs(importance_mean) desc nulls last, layer, neuron",
    "magnitude": "importance_rms desc nulls last, layer, neuron",
    "ablation": "ablation_score desc nulls last, layer, neuron",
}
# What each ranking sorts by.
SCORE: Mapping[str, str] = {
    "shared": "importance_mean",
    "magnitude": "importance_rms",
    "ablation": "ablation_score",
}


@dataclass(frozen=True)
class Run:
    """One finished run: what was asked, where it ran, and its summary (the long tables are read by name)."""

    run_id: str
    request_key: str
    created_at: datetime  # UTC
    request: ProbeRequest
    summary: dict[str, Any]
    environment: dict[str, str]
    stage: str  # reached with the sweeps there are; the summary's verdict has that of the two passes
    recorded: bool = False  # came with the program; else computed on this computer


class Runs(Sweeps):
    """Finished runs. A run never changes, so `run_id` is all a page needs to remember."""

    def save_run(self, result: ProbeResult, job_id: str | None = None) -> str:
        """Store a run in one transaction and return its run_id; a run that is there already is left as it is.

        A recorded one gives way to it. With `job_id` the same transaction marks that job done and drops its partial
        results. Raises StoreUnavailable, with nothing stored, when the disk is full or the file cannot be written.
        """
        with self._transaction() as cursor:
            key = {"key": result.request_key}
            there = cursor.execute("select recorded from runs where request_key = $key", key).fetchone()
            gives_way = there is not None and there[0] is not None
            if gives_way:
                for table in ("runs", *TABLES):
                    cursor.execute(f"delete from {table} where run_id = $run", {"run": result.run_id})  # noqa: S608
            if there is None or gives_way:
                self._insert_run(cursor, result)
            if job_id is not None:
                cursor.execute(
                    "update jobs set state = 'done', error = null, exit_code = null, run_id = $run where job_id = $job",
                    {"run": result.run_id, "job": job_id},
                )
                cursor.execute("delete from job_blocks where job_id = $job", {"job": job_id})
        if gives_way:
            self._replaced()
        self._saved()
        return result.run_id

    def _insert_run(self, cursor: duckdb.DuckDBPyConnection, result: ProbeResult) -> None:
        row = _run_row(result)
        names = ", ".join(row)
        values = ", ".join(f"${name}" for name in row)
        cursor.execute(f"insert into runs ({names}) values ({values})", row)  # noqa: S608  (names are ours)
        preview = result.token_preview.reset_index(drop=True).assign(position=range(len(result.token_preview)))
        for table, frame, columns in (
            ("pairs", result.pairs, PAIR_COLUMNS),
            ("first_tokens", result.first_tokens, FIRST_TOKEN_COLUMNS),
            ("layer_signals", result.layers, LAYER_COLUMNS),
            ("neuron_scores", result.neurons, NEURON_COLUMNS),
            ("token_preview", preview, ("position", *PREVIEW_COLUMNS)),
        ):
            self._insert(cursor, table, frame, columns, run_id=result.run_id)

    def delete_run(self, run_id: str) -> bool:
        """Delete a run and everything of it; False when there is no such run."""
        with self._transaction() as cursor:
            gone = cursor.execute("delete from runs where run_id = $run returning run_id", {"run": run_id}).fetchall()
            for (sweep_id,) in cursor.execute(
                """
                select sweep_id from sweeps where run_id = $run
                union select sweep_id from jobs where run_id = $run and sweep_id is not null
                """,
                {"run": run_id},
            ).fetchall():
                drop_sweep(cursor, sweep_id)
            for table in (*TABLES, *RUN_TABLES):
                cursor.execute(f"delete from {table} where run_id = $run", {"run": run_id})  # noqa: S608
            cursor.execute("delete from jobs where run_id = $run and state = 'done'", {"run": run_id})
            stays_deleted(cursor, run_id)
        self._replaced()
        return bool(gone)

    def find(self, request_key: str, *, here: bool = False) -> str | None:
        """run_id of the run that answered this exact request, or None; with `here` only one computed here counts."""
        found = self._rows(
            "select run_id from runs where request_key = $key and (recorded is null or not $here)",
            key=request_key,
            here=here,
        )
        return str(found[0][0]) if found else None

    def has_run(self, run_id: str) -> bool:
        """Whether there is a run of this id."""
        return self._is_there("select 1 from runs where run_id = $run", run=run_id)

    def runs_like(self, model: str, circuit: str, prompts: str, coupling: str) -> list[Run]:
        """The runs of one model, circuit, prompt set and coupling, newest first."""
        rows = self._kept(
            ("runs like", model, circuit, prompts, coupling, self._state.n_saved),
            lambda: self._rows(
                """
                select run_id from runs
                where model = $model and circuit = $circuit and prompts = $prompts and coupling = $coupling
                order by created_at desc, run_id
                """,
                model=model,
                circuit=circuit,
                prompts=prompts,
                coupling=coupling,
            ),
        )
        return [self.run(str(run_id)) for (run_id,) in rows]

    def runs(self) -> pd.DataFrame:
        """The history, newest first: one row per run with its settings and headline numbers; `created_at` in UTC.

        `recorded` is true for runs that came with the program instead of being computed here.
        `target` and `control` (lists, empty for the circuit's own strings), `strings_from` (where they come from:
        ProbeRequest.strings_from) and `thinking` are read from the request.
        """
        frame = self._frame(
            """
            select run_id, created_at, model, family, circuit, prompts, coupling, pair_limit as "limit", seed,
                   generated, n_pairs, n_forward_passes, seconds, flip_rate, ffn_skip_mean, structure, stage,
                   (select count(*) from sweeps s where s.run_id = runs.run_id) as n_sweeps,
                   coalesce(json_extract_string(request, '$.thinking'), 'auto') as thinking,
                   json_extract_string(request, '$.target[*]') as target,
                   json_extract_string(request, '$.control[*]') as control,
                   case when coalesce(json_array_length(request, '$.target'), 0) = 0 then 'circuit'
                        when json_extract_string(request, '$.harvested_from') is null then 'given'
                        else 'harvested' end as strings_from,
                   recommendation, dtype, device, revision, weights_sha256, recorded is not null as recorded
            from runs
            order by created_at desc, run_id
            """
        )
        frame["stage"] = pd.Series(self._stages(frame), dtype=object)
        return frame

    def ffn_skip_intervals(self) -> dict[str, tuple[float | None, float | None]]:
        """run_id -> 95 % interval of the FFN/Skip ratio, of every run."""
        rows = self._rows(
            """
            select run_id, json_extract(summary, '$.ffn_skip.interval[0]')::double,
                   json_extract(summary, '$.ffn_skip.interval[1]')::double
            from runs
            """
        )
        return {str(run_id): (low, high) for run_id, low, high in rows}

    def run(self, run_id: str) -> Run:
        """One run, which all who ask share: nobody writes to its dicts. Raises BadRequest when there is none."""
        run = self._kept(("run", run_id), lambda: self._read_run(run_id))
        stage = self.run_stage(run_id)
        return run if stage is None else replace(run, stage=stage)

    def _read_run(self, run_id: str) -> Run:
        """A run with the stage that its two passes reached."""
        rows = self._rows(
            """
            select request_key, created_at, request, summary, environment, recorded is not null
            from runs where run_id = $run
            """,
            run=run_id,
        )
        if not rows:
            raise BadRequest(
                f"There is no run {run_id!r} in {self._state.name}. The Runs page or `python -m pprobe_core runs list` "
                "shows the runs there are."
            )
        key, created_at, request, told, environment, recorded = rows[0]
        summary = json.loads(told)
        return Run(
            run_id=run_id,
            request_key=key,
            created_at=pd.Timestamp(created_at).tz_localize("UTC").to_pydatetime(),
            request=ProbeRequest.from_json(json.loads(request)),
            summary=summary,
            environment=json.loads(environment),
            stage=str((summary.get("verdict") or {}).get("stage") or "observed"),
            recorded=recorded,
        )

    def _stages(self, runs: pd.DataFrame) -> list[str | None]:
        """The stage of each run, raised by its sweeps."""
        swept = {run_id: self.run_stage(run_id) for run_id in runs.loc[runs["n_sweeps"] > 0, "run_id"]}
        return [swept.get(run_id) or stage for run_id, stage in zip(runs["run_id"], runs["stage"], strict=True)]

    def pairs(self, run_id: str) -> pd.DataFrame:
        """The prompt pairs of a run in prompt order, with the columns of `ProbeResult.pairs`."""
        return self._frame(_select("pairs", PAIR_COLUMNS, "idx"), run=run_id)

    def first_tokens(self, run_id: str) -> pd.DataFrame:
        """The likeliest first tokens per pair and condition, with the columns of `ProbeResult.first_tokens`."""
        return self._frame(
            """
            select t.pair_id, t.condition, t.rank, t.token_id, t.token, t.probability, t.side
            from first_tokens t join pairs p on p.run_id = t.run_id and p.pair_id = t.pair_id
            where t.run_id = $run
            order by p.idx, t.condition, t.rank
            """,
            run=run_id,
        )

    def layers(self, run_id: str) -> pd.DataFrame:
        """Layer signals per pair, condition and layer: `split` and the columns of `ProbeResult.layers`."""
        return self._frame(
            """
            select l.pair_id, p.split, l.condition, l.layer, l.attention, l.ffn, l.skip, l.ffn_skip, l.attention_skip,
                   l.lens_after_attention, l.lens_after_ffn
            from layer_signals l join pairs p on p.run_id = l.run_id and p.pair_id = l.pair_id
            where l.run_id = $run
            order by p.idx, l.condition, l.layer
            """,
            run=run_id,
        )

    def layer_means(self, run_id: str) -> pd.DataFrame:
        """Layer signals over pairs: condition, layer, measure, mean, sd (sample), n (pairs where it is defined)."""
        return self._frame(
            f"""
            select condition, layer, measure, avg(value) as mean, stddev_samp(value) as sd, count(*) as n
            from (
                unpivot (select condition, layer, {", ".join(LAYER_MEASURES)} from layer_signals where run_id = $run)
                on {", ".join(LAYER_MEASURES)} into name measure value value
            )
            group by all
            order by measure, condition, layer
            """,  # noqa: S608  (names are ours)
            run=run_id,
        )

    def token_preview(self, run_id: str) -> pd.DataFrame:
        """Which target and control strings became which token ids: side, string, ids, pieces, used, note."""
        return self._frame(_select("token_preview", PREVIEW_COLUMNS, "position"), run=run_id)

    def n_neurons(self, run_id: str) -> int:
        """How many neurons the model of a run has; tells a page whether to draw points or bins."""
        return int(self._rows("select count(*) from neuron_scores where run_id = $run", run=run_id)[0][0])

    def neurons(self, run_id: str) -> pd.DataFrame:
        """All neurons of a run by (layer, neuron), with the columns of `ProbeResult.neurons`."""
        return self._frame(_select("neuron_scores", NEURON_COLUMNS, "layer, neuron"), run=run_id)

    def importance(self, run_id: str) -> Float[np.ndarray, " neuron"]:
        """Mean importance (logits) of every neuron of a run by (layer, neuron); NaN where it is not defined."""
        found = self._frame(_select("neuron_scores", ("importance_mean",), "layer, neuron"), run=run_id)
        return found["importance_mean"].to_numpy(dtype=np.float64)

    def top_neurons(self, run_id: str, ranking: Ranking = "shared", k: int = 50) -> pd.DataFrame:
        """The first k neurons of a ranking: `rank` (from 1) and the columns of `ProbeResult.neurons`.

        Raises BadRequest for an unknown ranking.
        """
        first = self._frame(
            f"""
            select {", ".join(NEURON_COLUMNS)} from neuron_scores
            where run_id = $run order by {order_by(ranking)} limit $k
            """,  # noqa: S608  (the order is ours)
            run=run_id,
            k=k,
        )
        first.insert(0, "rank", range(1, len(first) + 1))
        return first

    def neurons_inside(
        self,
        run_id: str,
        ranking: Ranking,
        position: tuple[float, float] = (-inf, inf),
        score: tuple[float, float] = (-inf, inf),
        *,
        spread: float = 0.0,
        k: int = 500,
    ) -> pd.DataFrame:
        """The first k neurons of a ranking whose position and score lie between two ends, as `top_neurons` gives them.

        The position is the layer, with the layer's neurons spread evenly over `spread` around it. `rank` counts all
        neurons. Raises BadRequest for an unknown ranking.
        """
        return self._frame(
            f"""
            with ranked as (
                select row_number() over (order by {order_by(ranking)}) as rank, {", ".join(NEURON_COLUMNS)},
                       layer + (neuron / greatest(max(neuron) over (), 1) - 0.5) * $spread as position
                from neuron_scores
                where run_id = $run
            )
            select rank, {", ".join(NEURON_COLUMNS)} from ranked
            where position between $left and $right and {SCORE[ranking]} between $low and $high
            order by rank
            limit $k
            """,  # noqa: S608  (the order is ours)
            run=run_id,
            spread=spread,
            left=position[0],
            right=position[1],
            low=score[0],
            high=score[1],
            k=k,
        )

    def neuron_map(self, run_id: str, ranking: Ranking = "shared", bins: int = 80) -> pd.DataFrame:
        """How many neurons of each layer lie in each of `bins` equal steps of a ranking's score.

        Columns: layer, low, high (ends of the step, from the smallest to the largest score of all), n_neurons; empty
        steps are left out. For models with too many neurons to draw one by one. Raises BadRequest for an unknown
        ranking.
        """
        order_by(ranking)
        return self._frame(
            f"""
            with scores as (
                    select layer, {SCORE[ranking]}::double as score from neuron_scores
                    where run_id = $run and {SCORE[ranking]} is not null
                 ),
                 span as (
                    select min(score) as low, coalesce(nullif((max(score) - min(score)) / $bins, 0), 1e-12) as width
                    from scores
                 ),
                 counted as (
                    select layer, least($bins - 1, floor((score - low) / width))::integer as step, count(*) as n_neurons
                    from scores, span
                    group by all
                 )
            select layer, low + step * width as low, low + (step + 1) * width as high, n_neurons
            from counted, span
            order by layer, step
            """,  # noqa: S608  (the column is ours)
            run=run_id,
            bins=bins,
        )

    def importance_of(self, run_id: str, neurons: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """Mean importance (logits) of some neurons, by (layer, neuron); those that have none are left out."""
        rows = self._rows(
            """
            select n.layer, n.neuron, n.importance_mean
            from neuron_scores n
            join (select unnest($layers::integer[]) as layer, unnest($neurons::integer[]) as neuron) asked
                 on asked.layer = n.layer and asked.neuron = n.neuron
            where n.run_id = $run and n.importance_mean is not null
            """,
            run=run_id,
            layers=[layer for layer, _ in neurons],
            neurons=[neuron for _, neuron in neurons],
        )
        return {(int(layer), int(neuron)): float(value) for layer, neuron, value in rows}

    def layer_mass(self, run_id: str) -> pd.DataFrame:
        """Share of the total |mean importance| that each layer holds: layer, mass (fractions that sum to 1)."""
        return self._frame(
            """
            select layer, sum(abs(importance_mean))::double
                          / nullif(sum(sum(abs(importance_mean))) over (), 0)::double as mass
            from neuron_scores
            where run_id = $run
            group by layer
            order by layer
            """,
            run=run_id,
        )

    def compare_neurons(self, run_a: str, run_b: str, ranking: Ranking = "shared", k: int = 50) -> pd.DataFrame:
        """Neurons among the first k of either run: layer, neuron, and rank and mean importance in both runs.

        Only meaningful when both runs are of models with the same layers and widths.
        """
        order = order_by(ranking)
        return self._frame(
            f"""
            with ranked as (
                select run_id, layer, neuron, importance_mean,
                       row_number() over (partition by run_id order by {order}) as rank
                from neuron_scores
                where run_id in ($a, $b)
            ),
            a as (select * from ranked where run_id = $a),
            b as (select * from ranked where run_id = $b)
            select layer, neuron, a.rank as rank_a, b.rank as rank_b,
                   a.importance_mean as importance_a, b.importance_mean as importance_b
            from a full join b using (layer, neuron)
            where least(coalesce(a.rank, $k + 1), coalesce(b.rank, $k + 1)) <= $k
            order by least(coalesce(a.rank, b.rank), coalesce(b.rank, a.rank)), layer, neuron
            """,  # noqa: S608  (the order is ours)
            a=run_a,
            b=run_b,
            k=k,
        )

    def compare_layers(self, run_a: str, run_b: str) -> pd.DataFrame:
        """`layer_means` of two runs below each other, with a first column run_id."""
        frames = {run_id: self.layer_means(run_id) for run_id in (run_a, run_b)}
        named = [frame.assign(run_id=run_id)[["run_id", *frame.columns]] for run_id, frame in frames.items()]
        return pd.concat(named, ignore_index=True)


def order_by(ranking: str) -> str:
    """SQL order of a ranking. Raises BadRequest that names the rankings there are."""
    if ranking not in ORDER_BY:
        raise BadRequest(f"There is no ranking {ranking!r}. The rankings are {', '.join(RANKINGS)}.")
    return ORDER_BY[ranking]


def _select(table: str, columns: tuple[str, ...], order: str) -> str:
    return f"select {', '.join(columns)} from {table} where run_id = $run order by {order}"  # noqa: S608  (names are ours)


def _run_row(result: ProbeResult) -> dict[str, Any]:
    """The row of `runs`: settings from the request, everything measured from the summary."""
    request, summary = result.request, plain(result.summary)
    verdict = summary.get("verdict") or {}
    ffn_skip = summary.get("ffn_skip") or {}
    return {
        "run_id": result.run_id,
        "request_key": result.request_key,
        "created_at": utc_now(),
        "model": summary.get("model") or request.model,
        "model_path": summary.get("model_path"),
        "family": summary.get("family"),
        "revision": summary.get("revision"),
        "weights_sha256": summary.get("weights_sha256"),
        "tokenizer_sha256": summary.get("tokenizer_sha256"),
        "circuit": request.circuit,
        "circuit_sha256": summary.get("circuit_sha256"),
        "prompts": summary.get("prompts") or request.prompts,
        "prompts_sha256": summary.get("prompt_set_sha256"),
        "dtype": summary.get("dtype") or result.environment.get("dtype"),
        "device": summary.get("device") or result.environment.get("device"),
        "coupling": request.coupling,
        "pair_limit": request.limit,
        "seed": request.seed,
        "generated": request.generate,
        "n_pairs": len(result.pairs),
        "n_forward_passes": summary.get("n_forward_passes"),
        "seconds": summary.get("seconds"),
        "flip_rate": summary.get("flip_rate"),
        "ffn_skip_mean": ffn_skip.get("mean"),
        "structure": verdict.get("structure"),
        "stage": verdict.get("stage"),
        "recommendation": verdict.get("recommendation"),
        "request": json.dumps(plain(request.as_json()), ensure_ascii=False, allow_nan=False),
        "summary": json.dumps(summary, ensure_ascii=False, allow_nan=False),
        "environment": json.dumps(plain(result.environment), ensure_ascii=False, allow_nan=False),
    }
