"""All SQL of sweeps: points and answers committed as they are made, finished sweeps, labels, measured effects."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple, get_args

import duckdb
import pandas as pd

from pprobe_core.circuits.schema import Condition
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Neuron, Position
from pprobe_core.interventions.statistics import SweepStage
from pprobe_core.interventions.types import BASELINE_KEY, STAGE_KINDS, SweepPoint, SweepRequest, SweepResponse
from pprobe_core.probing.types import tupled
from pprobe_core.store.database import Database, utc_now
from pprobe_core.store.plain import plain

SWEEP_TABLES = ("sweeps", "sweep_points", "sweep_responses", "sweep_passes", "labels")
BESIDE = "+"  # after the id of a sweep that is measured while a recorded one of the same id is shown
RUN_TABLES = ("measured_effects", "measured_passes")  # of a run's model, shared by its sweeps
STAGES: tuple[SweepStage, ...] = get_args(SweepStage)
POINT_COLUMNS = tuple(field.name for field in fields(SweepPoint))
RESPONSE_COLUMNS = ("key", "pair_id", "seed", "split", "text", "class_name", "finish", "rules_version")
# The answers of a sweep with the class that counts: the rules', or what a person said instead.
_BY_RULES = "(select * from sweep_responses where sweep_id = $sweep)"
_BY_LABELS = """(
    select r.* replace (coalesce(l.class_name, r.class_name) as class_name)
    from sweep_responses r left join labels l using (sweep_id, key, pair_id, seed)
    where r.sweep_id = $sweep
)"""
_QUOTED = ", ".join(f'"{name}"' for name in POINT_COLUMNS)  # "group" is a word of SQL
PER_PROMPT = ("pair_ids", "logit_diffs", "deltas")  # of a point: a number for every prompt
_MEANS = ", ".join(f"[] as {name}" if name in PER_PROMPT else f'"{name}"' for name in POINT_COLUMNS)


@dataclass(frozen=True)
class Sweep:
    """One finished sweep: what was asked and its summary (points and answers are read by name)."""

    sweep_id: str
    run_id: str
    created_at: datetime  # UTC
    request: SweepRequest
    summary: dict[str, Any]
    recorded: bool = False  # came with the program; else computed on this computer


class AnswerWay(NamedTuple):
    """How many answers of a point and split went from one class, unedited, to another, edited."""

    key: str
    split: str
    before: str
    after: str
    multi_turn: bool  # whether their pairs are among those named so
    known: bool
    n: int


class SwitchedAnswer(NamedTuple):
    """An edited answer whose class went one of the ways asked for."""

    key: str
    split: str
    before: str
    after: str
    pair_id: str
    text: str


@dataclass(frozen=True)
class Spent:
    """Forward passes and seconds spent."""

    n_full_passes: int = 0
    n_last_token_passes: int = 0
    seconds: float = 0.0


def sweep_request(values: dict[str, Any]) -> SweepRequest:
    """A SweepRequest from its JSON values."""
    return SweepRequest(**tupled(values))


class Sweeps(Database):
    """Sweeps of runs. A finished sweep never changes; only labels that a person gives its answers are added."""

    # -- while it runs --

    def place_of(self, sweep_id: str) -> str:
        """Under which id the pieces of an unfinished sweep are kept: another than its own beside a recorded one."""
        return f"{sweep_id}{BESIDE}" if self.has_sweep(sweep_id) else sweep_id

    def add_points(self, sweep_id: str, points: Sequence[SweepPoint]) -> None:
        """Commit measured points; those that are there already stay."""
        with self._transaction() as cursor:
            for point in points:
                values = {name: plain(value) for name, value in asdict(point).items()}
                cursor.execute(
                    f"""
                    insert into sweep_points (sweep_id, {_QUOTED})
                    values ($sweep_id, {", ".join(f"${name}" for name in POINT_COLUMNS)})
                    on conflict do nothing
                    """,  # noqa: S608  (names are ours)
                    {"sweep_id": sweep_id, **values},
                )

    def add_responses(self, sweep_id: str, responses: Sequence[SweepResponse], rules_version: int) -> None:
        """Commit classified answers; those that are there already stay."""
        rows = pd.DataFrame([asdict(response) for response in responses]).assign(rules_version=rules_version)
        with self._transaction() as cursor:
            self._insert(cursor, "sweep_responses", rows, RESPONSE_COLUMNS, verb="insert or ignore", sweep_id=sweep_id)

    def add_passes(self, sweep_id: str, spent: Spent) -> None:
        """Commit what one attempt at a sweep spent."""
        with self._transaction() as cursor:
            cursor.execute(
                "insert into sweep_passes values ($sweep, $full, $last, $seconds)",
                {
                    "sweep": sweep_id,
                    "full": spent.n_full_passes,
                    "last": spent.n_last_token_passes,
                    "seconds": spent.seconds,
                },
            )

    def sweep_spent(self, sweep_id: str) -> Spent:
        """What all attempts at a sweep spent together."""
        return self._spent("sweep_passes where sweep_id = $id", id=sweep_id)

    def point_ids(self, sweep_id: str) -> set[str]:
        """Ids of the points that are there."""
        return {str(i) for (i,) in self._rows("select point_id from sweep_points where sweep_id = $s", s=sweep_id)}

    def response_ids(self, sweep_id: str, seed: int) -> set[tuple[str, str]]:
        """(key, pair_id) of the answers that are there for one seed."""
        rows = self._rows(
            "select key, pair_id from sweep_responses where sweep_id = $sweep and seed = $seed",
            sweep=sweep_id,
            seed=seed,
        )
        return {(str(key), str(pair)) for key, pair in rows}

    def save_sweep(
        self,
        sweep_id: str,
        request_key: str,
        request: SweepRequest,
        summary: dict[str, Any],
        job_id: str | None = None,
        measured_as: str | None = None,
    ) -> None:
        """Mark a sweep complete, in one transaction with its job; one that is there already is left as it is.

        `measured_as` is where its pieces are (`place_of`): one measured beside a recorded sweep takes its place, and
        its labels, which are what a person said about the same answers.
        """
        row = {
            "sweep_id": sweep_id,
            "request_key": request_key,
            "run_id": request.run_id,
            "created_at": utc_now(),
            "kind": request.kind,
            "ranking": summary.get("ranking"),
            "condition": request.condition,
            "position": request.position,
            "stage": summary["stage"],
            "n_full_passes": summary["n_full_passes"],
            "n_last_token_passes": summary["n_last_token_passes"],
            "seconds": summary["seconds"],
            "request": json.dumps(plain(request), ensure_ascii=False, allow_nan=False),
            "summary": json.dumps(plain(summary), ensure_ascii=False, allow_nan=False),
        }
        with self._transaction() as cursor:
            # The run may have been deleted while the sweep ran.
            if cursor.execute("select 1 from runs where run_id = $run", {"run": request.run_id}).fetchone() is None:
                raise BadRequest(f"The run {request.run_id} was deleted while its sweep ran, so nothing was kept.")
            if measured_as not in (None, sweep_id):
                _take_place(cursor, sweep_id, str(measured_as))
            cursor.execute(
                f"insert into sweeps ({', '.join(row)}) values ({', '.join(f'${name}' for name in row)}) "  # noqa: S608
                "on conflict do nothing",
                row,
            )
            if job_id is not None:
                cursor.execute(
                    """
                    update jobs set state = 'done', error = null, exit_code = null, run_id = $run, sweep_id = $sweep
                    where job_id = $job
                    """,
                    {"run": request.run_id, "sweep": sweep_id, "job": job_id},
                )
        if measured_as not in (None, sweep_id):
            self._replaced()
        self._saved()

    def delete_sweep(self, sweep_id: str) -> bool:
        """Delete a sweep, finished or not, with everything of it; False when there is no finished one."""
        with self._transaction() as cursor:
            gone = cursor.execute("select 1 from sweeps where sweep_id = $s", {"s": sweep_id}).fetchone() is not None
            drop_sweep(cursor, sweep_id)
            stays_deleted(cursor, sweep_id)
        self._replaced()
        return gone

    # -- finished sweeps --

    def has_sweep(self, sweep_id: str, *, here: bool = False) -> bool:
        """Whether a finished sweep of this id is there; with `here` only one computed here counts."""
        found = "select 1 from sweeps where sweep_id = $s and (recorded is null or not $here)"
        return self._is_there(found, s=sweep_id, here=here)

    def sweeps(self, run_id: str | None = None) -> pd.DataFrame:
        """Finished sweeps, newest first: one row each, of one run or of all; `created_at` in UTC.

        `recorded` is true for sweeps that came with the program instead of being computed here.
        """
        return self._frame(
            """
            select sweep_id, run_id, created_at, kind, ranking, condition, position, stage, n_full_passes,
                   n_last_token_passes, seconds, summary, recorded is not null as recorded
            from sweeps
            where $run is null or run_id = $run
            order by created_at desc, sweep_id
            """,
            run=run_id,
        )

    def sweep(self, sweep_id: str) -> Sweep:
        """One finished sweep, which all who ask share: nobody writes to its dicts. Raises BadRequest if unknown."""
        return self._kept(("sweep", sweep_id), lambda: self._read_sweep(sweep_id))

    def _read_sweep(self, sweep_id: str) -> Sweep:
        rows = self._rows(
            "select run_id, created_at, request, summary, recorded is not null from sweeps where sweep_id = $sweep",
            sweep=sweep_id,
        )
        if not rows:
            raise BadRequest(
                f"There is no sweep {sweep_id!r} in {self._state.name}. `sweep list` shows those there are."
            )
        run_id, created_at, request, summary, recorded = rows[0]
        return Sweep(
            sweep_id=sweep_id,
            run_id=run_id,
            created_at=pd.Timestamp(created_at).tz_localize("UTC").to_pydatetime(),
            request=sweep_request(json.loads(request)),
            summary=json.loads(summary),
            recorded=recorded,
        )

    def run_stage(self, run_id: str) -> str | None:
        """The stage that a run's sweeps raised it to; None when none of them did."""
        rows = self._kept(
            ("stages", run_id, self._state.n_saved),
            lambda: self._rows("select kind, stage from sweeps where run_id = $run", run=run_id),
        )
        reached = [STAGES.index(stage) for kind, stage in rows if kind in STAGE_KINDS and stage in STAGES]
        return STAGES[max(reached)] if reached else None

    def points(self, sweep_id: str, *, per_prompt: bool = True) -> tuple[SweepPoint, ...]:
        """The measured points, in the order of their ids' numbers: by coordinates, arm, draw and split.

        Without `per_prompt` what is held for every single prompt (PER_PROMPT) is left empty: the means stay.
        """
        columns = _QUOTED if per_prompt else _MEANS
        rows = self._rows(
            f"""
            select {columns} from sweep_points where sweep_id = $sweep
            order by variant, n_neurons, layer, strength, factor, arm, draw, split
            """,  # noqa: S608  (names are ours)
            sweep=sweep_id,
        )
        return tuple(_point(row) for row in rows)

    def sweep_points(
        self, sweep_id: str, *, per_prompt: bool = True, points: Sequence[SweepPoint] | None = None
    ) -> pd.DataFrame:
        """The points as rows with the columns of SweepPoint, and `key`, `class_counts` (dict, None without answers).

        Without `per_prompt` the columns PER_PROMPT are not there. `points`: what `points` gave before.
        """
        points = self.points(sweep_id, per_prompt=per_prompt) if points is None else points
        columns = [name for name in POINT_COLUMNS if per_prompt or name not in PER_PROMPT]
        frame = pd.DataFrame(
            [[*(getattr(p, name) for name in columns), p.key] for p in points], columns=[*columns, "key"]
        )
        for name in ("draw", "n_neurons", "layer"):
            frame[name] = frame[name].astype("Int64")
        counts = self.class_counts(sweep_id)
        frame["class_counts"] = pd.Series([counts.get((p.key, p.split)) for p in points], dtype=object)
        return frame

    def class_counts(self, sweep_id: str) -> dict[tuple[str, str], dict[str, int]]:
        """(key, split) -> how many answers of all seeds fell into each class by the rules."""
        rows = self._rows(
            """
            select key, split, class_name, count(*) from sweep_responses
            where sweep_id = $sweep group by all order by all
            """,
            sweep=sweep_id,
        )
        counts: dict[tuple[str, str], dict[str, int]] = {}
        for key, split, name, n in rows:
            counts.setdefault((key, split), Counter())[name] = int(n)
        return {place: dict(found) for place, found in counts.items()}

    def sweep_responses(self, sweep_id: str) -> pd.DataFrame:
        """All answers: key, pair_id, seed, split, text, class_name, finish, rules_version, label (None where none)."""
        return self._answers("", sweep_id)

    def answers_at(self, sweep_id: str, keys: Sequence[str]) -> pd.DataFrame:
        """The answers of some planned points only, with the columns and in the order of `sweep_responses`."""
        return self._answers("and r.key in (select unnest($keys::varchar[]))", sweep_id, keys=list(keys))

    def labelled_answers(self, sweep_id: str) -> pd.DataFrame:
        """The answers that a person labelled, with the columns and in the order of `sweep_responses`."""
        return self._answers("and l.class_name is not null", sweep_id)

    def label_state(self, sweep_id: str) -> str:
        """Another text whenever a label of a sweep was given, changed or taken back; "" while there is none."""
        ((n, last),) = self._rows("select count(*), max(labelled_at) from labels where sweep_id = $s", s=sweep_id)
        return f"{n} until {last}" if n else ""

    def answer_seeds(self, sweep_id: str) -> list[int]:
        """The seeds that answers were drawn with; [] without answers."""
        rows = self._rows(
            "select distinct seed from sweep_responses where sweep_id = $sweep order by seed", sweep=sweep_id
        )
        return [int(seed) for (seed,) in rows]

    def answer_ways(
        self, sweep_id: str, use_labels: bool = False, multi_turn: Sequence[str] = (), known: Sequence[str] = ()
    ) -> list[AnswerWay]:
        """How many answers of each point went from which class, unedited, to which, edited: a few rows per point.

        `multi_turn` and `known` name pairs. With `use_labels` a person's label counts instead of the rules' class.
        """
        classed = _BY_LABELS if use_labels else _BY_RULES
        rows = self._rows(
            f"""
            with first_pairs as (
                select split, min(pair_id) as first_pair from sweep_responses where sweep_id = $sweep group by split
            )
            select key, split, before, after, multi_turn, known, n
            from (
                select a.key, a.split, b.class_name as before, a.class_name as after,
                       a.pair_id in (select unnest($multi_turn::varchar[])) as multi_turn,
                       a.pair_id in (select unnest($known::varchar[])) as known,
                       count(*) as n
                from {classed} a
                join (select * from {classed} where key = $baseline) b on b.pair_id = a.pair_id and b.seed = a.seed
                group by all
            ) join first_pairs using (split)
            order by key, first_pair, before, after, multi_turn, known
            """,  # noqa: S608  (the text is ours)
            sweep=sweep_id,
            baseline=BASELINE_KEY,
            multi_turn=list(multi_turn),
            known=list(known),
        )
        return [AnswerWay(*row) for row in rows]

    def answer_texts(
        self, sweep_id: str, ways: Iterable[tuple[str, str]], pair_ids: Sequence[str], use_labels: bool = False
    ) -> list[SwitchedAnswer]:
        """Edited answers of some pairs that went one of these ways (before, after)."""
        classed = _BY_LABELS if use_labels else _BY_RULES
        rows = self._rows(
            f"""
            select a.key, a.split, b.class_name as before, a.class_name as after, a.pair_id, a.text
            from {classed} a
            join (select * from {classed} where key = $baseline) b on b.pair_id = a.pair_id and b.seed = a.seed
            where a.pair_id in (select unnest($pairs::varchar[]))
              and b.class_name || '/' || a.class_name in (select unnest($ways::varchar[]))
            """,  # noqa: S608  (the text is ours)
            sweep=sweep_id,
            baseline=BASELINE_KEY,
            pairs=list(pair_ids),
            ways=["/".join(way) for way in ways],
        )
        return [SwitchedAnswer(*row) for row in rows]

    def _answers(self, which: str, sweep_id: str, **params: Any) -> pd.DataFrame:
        return self._frame(
            f"""
            select r.key, r.pair_id, r.seed, r.split, r.text, r.class_name, r.finish, r.rules_version,
                   l.class_name as label
            from sweep_responses r left join labels l using (sweep_id, key, pair_id, seed)
            where r.sweep_id = $sweep {which}
            order by r.key, r.pair_id, r.seed
            """,  # noqa: S608  (the text is ours)
            sweep=sweep_id,
            **params,
        )

    # -- labels --

    def add_label(self, sweep_id: str, key: str, pair_id: str, seed: int, class_name: str | None) -> None:
        """Store what a person says about one answer, in place of what was said before; None takes it back.

        Raises BadRequest when there is no such answer.
        """
        place = {"sweep": sweep_id, "key": key, "pair": pair_id, "seed": seed}
        where = "sweep_id = $sweep and key = $key and pair_id = $pair and seed = $seed"
        with self._transaction() as cursor:
            if cursor.execute(f"select 1 from sweep_responses where {where}", place).fetchone() is None:  # noqa: S608
                raise BadRequest("There is no such answer to label; it may have been deleted. Reload the page.")
            cursor.execute(f"delete from labels where {where}", place)  # noqa: S608
            if class_name is not None:
                cursor.execute(
                    "insert into labels values ($sweep, $key, $pair, $seed, $name, $now)",
                    place | {"name": class_name, "now": utc_now()},
                )

    # -- single-neuron effects --

    def add_effects(
        self,
        run_id: str,
        condition: Condition,
        position: Position,
        effects: Iterable[tuple[Neuron, float | None]],
        n_prompts: int,
        spent: Spent,
    ) -> None:
        """Commit measured single-neuron effects and what they cost."""
        rows = pd.DataFrame([(*neuron, effect) for neuron, effect in effects], columns=["layer", "neuron", "effect"])
        place: dict[str, Any] = {"run_id": run_id, "condition": condition, "position": position}
        with self._transaction() as cursor:
            self._insert(
                cursor,
                "measured_effects",
                rows.astype({"effect": "float64"}),
                ("layer", "neuron", "effect"),
                **place,
                n_prompts=n_prompts,
            )
            cursor.execute(
                "insert into measured_passes values ($run_id, $condition, $position, $full, $last, $seconds)",
                place | {"full": spent.n_full_passes, "last": spent.n_last_token_passes, "seconds": spent.seconds},
            )

    def effects(self, run_id: str, condition: Condition, position: Position) -> dict[Neuron, float | None]:
        """Neuron -> its own measured effect in logits (None where it broke the model)."""
        rows = self._rows(
            """
            select layer, neuron, effect from measured_effects
            where run_id = $run and condition = $condition and position = $position
            order by layer, neuron
            """,
            run=run_id,
            condition=condition,
            position=position,
        )
        return {
            Neuron(int(layer), int(n)): None if effect is None or effect != effect else float(effect)
            for layer, n, effect in rows
        }

    def effects_spent(self, run_id: str, condition: Condition, position: Position) -> Spent:
        """What measuring single neurons of a run cost so far."""
        return self._spent(
            "measured_passes where run_id = $run and condition = $condition and position = $position",
            run=run_id,
            condition=condition,
            position=position,
        )

    def _spent(self, source: str, **params: Any) -> Spent:
        ((full, last, seconds),) = self._rows(
            "select coalesce(sum(n_full_passes), 0), coalesce(sum(n_last_token_passes), 0), coalesce(sum(seconds), 0) "  # noqa: S608
            f"from {source}",
            **params,
        )
        return Spent(int(full), int(last), float(seconds))


def drop_sweep(cursor: duckdb.DuckDBPyConnection, sweep_id: str) -> None:
    """Delete everything of a sweep inside a transaction."""
    for table in SWEEP_TABLES:
        for place in (sweep_id, f"{sweep_id}{BESIDE}"):
            cursor.execute(f"delete from {table} where sweep_id = $sweep", {"sweep": place})  # noqa: S608  (names are ours)
    cursor.execute("delete from jobs where sweep_id = $sweep and state = 'done'", {"sweep": sweep_id})


def _take_place(cursor: duckdb.DuckDBPyConnection, sweep_id: str, measured_as: str) -> None:
    """Let what was measured under another id stand in the place of the recorded sweep."""
    cursor.execute("delete from sweeps where sweep_id = $s and recorded is not null", {"s": sweep_id})
    for table in ("sweep_points", "sweep_responses", "sweep_passes"):
        cursor.execute(f"delete from {table} where sweep_id = $s", {"s": sweep_id})  # noqa: S608
        cursor.execute(
            f"insert into {table} by name select * replace ($s as sweep_id) from {table} where sweep_id = $other",  # noqa: S608
            {"s": sweep_id, "other": measured_as},
        )
        cursor.execute(f"delete from {table} where sweep_id = $other", {"other": measured_as})  # noqa: S608


def stays_deleted(cursor: duckdb.DuckDBPyConnection, result_id: str) -> None:
    """Note that a user deleted this run or sweep, so that a recorded one of the same id does not come back."""
    cursor.execute("insert into recorded_deleted values ($id) on conflict do nothing", {"id": result_id})


def _point(row: Sequence[Any]) -> SweepPoint:
    """A row with the columns POINT_COLUMNS."""
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return SweepPoint(*values)
