"""All SQL of recorded results: runs and sweeps that come with the program as Parquet files, one per table.

They lie in the same tables as those computed here and are told apart by the column `recorded`. What was computed here
is never touched by them: a recorded run of the same id is left out, or gives way.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from pprobe_core.store.runs import TABLES, Runs
from pprobe_core.store.sweeps import RUN_TABLES, SWEEP_TABLES

# Of a run, then of a sweep. Labels are what a person says, so no recorded set has any.
BY_RUN = ("runs", *TABLES, *RUN_TABLES)
BY_SWEEP = tuple(table for table in SWEEP_TABLES if table != "labels")
RECORDED_TABLES = (*BY_RUN, *BY_SWEEP)
# Rows that compress best stand beside each other; reading does not depend on it.
_ORDER: Mapping[str, str] = {
    "runs": "run_id",
    "pairs": "run_id, idx",
    "first_tokens": "run_id, condition, rank, pair_id",
    "layer_signals": "run_id, condition, layer, pair_id",
    "neuron_scores": "run_id, layer, neuron",
    "token_preview": "run_id, position",
    "measured_effects": "run_id, condition, position, layer, neuron",
    "measured_passes": "run_id, condition, position, n_full_passes",
    "sweeps": "sweep_id",
    "sweep_points": "sweep_id, variant, n_neurons, layer, strength, factor, arm, draw, split",
    "sweep_responses": "sweep_id, pair_id, seed, key",
    "sweep_passes": "sweep_id, n_full_passes",
}


class Recorded(Runs):
    """Bringing a recorded set in, taking it out, and writing one."""

    def recorded_set(self) -> str | None:
        """Id of the set that was brought in last; None when there was none yet."""
        rows = self._rows("select set_id from recorded_set")
        return str(rows[0][0]) if rows else None

    def wants_recorded(self) -> bool:
        """False where the user took the recorded results out and did not ask for them again."""
        return not self._rows("select 1 from recorded_set where not wanted")

    def n_recorded(self) -> tuple[int, int]:
        """How many recorded runs and sweeps are here."""
        ((runs, sweeps),) = self._rows(
            "select (select count(recorded) from runs), (select count(recorded) from sweeps)"
        )
        return int(runs), int(sweeps)

    def load_recorded_set(
        self, files: Mapping[str, Path], set_id: str, *, again: bool = False, only: Collection[str] | None = None
    ) -> tuple[int, int]:
        """Bring a recorded set in, in place of an older one, in one transaction; how many runs and sweeps are new.

        `files` names the Parquet file of each of RECORDED_TABLES. Left out is what is here already, and what a user
        deleted, unless `again` says that the user asks for everything. `only` brings in these ids alone (a run's brings
        no sweeps with it) and changes nothing else. Raises StoreUnavailable, with nothing changed, for files that
        cannot be read.
        """
        with self._transaction() as cursor:
            if only is None:
                if again:
                    cursor.execute("delete from recorded_deleted")
                _drop_recorded(cursor, keep_runs=_runs_in(cursor, files["runs"]))
            chosen = None if only is None else sorted(only)
            new_runs = _ids(
                cursor,
                """
                select run_id from read_parquet($file)
                where run_id not in (select run_id from runs) and run_id not in (select id from recorded_deleted)
                  and ($only is null or list_contains($only, run_id))
                """,
                file=str(files["runs"]),
                only=chosen,
            )
            # Rows of unfinished work on the same sweep would be in the way, so the finished recorded one waits for it.
            new_sweeps = _ids(
                cursor,
                """
                select sweep_id from read_parquet($file)
                where sweep_id not in (select sweep_id from sweeps)
                  and sweep_id not in (select id from recorded_deleted)
                  and sweep_id not in (select sweep_id from jobs where sweep_id is not null
                                       and state in ('queued', 'running', 'interrupted'))
                  and (list_contains($runs, run_id) or run_id in (select run_id from runs))
                  and ($only is null or list_contains($only, sweep_id))
                """,
                file=str(files["sweeps"]),
                runs=new_runs,
                only=chosen,
            )
            for sweep_id in new_sweeps:  # points of an attempt that was cancelled
                for table in BY_SWEEP:
                    cursor.execute(f"delete from {table} where sweep_id = $s", {"s": sweep_id})  # noqa: S608
            for tables, key, ids in ((BY_RUN, "run_id", new_runs), (BY_SWEEP, "sweep_id", new_sweeps)):
                for table in tables:
                    marked = ", $set as recorded" if table in ("runs", "sweeps") else ""
                    cursor.execute(
                        f"insert into {table} by name select *{marked} from read_parquet($file) "  # noqa: S608
                        f"where list_contains($ids, {key})",
                        {"file": str(files[table]), "ids": ids} | ({"set": set_id} if marked else {}),
                    )
            if only is None:
                cursor.execute("delete from recorded_set")
                cursor.execute("insert into recorded_set values ($set, true)", {"set": set_id})
        self._replaced()
        return len(new_runs), len(new_sweeps)

    def remove_recorded(self) -> tuple[int, int]:
        """Take all recorded results out until they are asked for again; how many recorded runs and sweeps are left.

        A recorded run with a sweep that was computed here stays, so that nobody's work is lost.
        """
        with self._transaction() as cursor:
            _drop_recorded(cursor)
            cursor.execute("update recorded_set set wanted = false")
        self._replaced()
        return self.n_recorded()

    def write_recorded_set(
        self, folder: Path, run_ids: Collection[str], sweep_ids: Collection[str]
    ) -> dict[str, tuple[Path, int]]:
        """Write these runs and sweeps as one Parquet file per table; table -> (file, rows).

        Raises BadRequest when one of the runs or sweeps is not here, OSError when the folder cannot be written.
        """
        for run_id in run_ids:
            self.run(run_id)
        for sweep_id in sweep_ids:
            self.sweep(sweep_id)
        written = {}
        for tables, key, ids in ((BY_RUN, "run_id", run_ids), (BY_SWEEP, "sweep_id", sweep_ids)):
            for table in tables:
                left_out = " exclude (recorded)" if table in ("runs", "sweeps") else ""
                with self._cursor() as cursor:
                    rows = cursor.sql(
                        f"select *{left_out} from {table} where list_contains($ids, {key}) "  # noqa: S608
                        f"order by {_ORDER[table]}",
                        params={"ids": sorted(ids)},
                    ).to_arrow_table()
                if table == "runs":
                    rows = _without_folders(rows)
                file = folder / f"{table}.parquet"
                floats = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
                pyarrow.parquet.write_table(
                    rows,
                    file,
                    compression="zstd",
                    compression_level=19,
                    row_group_size=max(1, rows.num_rows),
                    use_dictionary=[name for name in rows.schema.names if name not in floats],
                    use_byte_stream_split=floats,
                )
                written[table] = (file, rows.num_rows)
        return written


def _drop_recorded(cursor: duckdb.DuckDBPyConnection, keep_runs: Collection[str] = ()) -> None:
    """Delete recorded sweeps and runs; runs that carry a sweep computed here stay, and are rewritten in `keep_runs`.

    Labels of sweeps stay where they are: a set of the same ids that follows finds them again.
    """
    recorded = "(select sweep_id from sweeps where recorded is not null)"
    for table in BY_SWEEP[1:]:
        cursor.execute(f"delete from {table} where sweep_id in {recorded}")  # noqa: S608
    cursor.execute("delete from sweeps where recorded is not null")
    doomed = _ids(
        cursor,
        """
        select run_id from runs
        where recorded is not null and (list_contains($keep, run_id) or run_id not in (select run_id from sweeps))
        """,
        keep=sorted(keep_runs),
    )
    for table in BY_RUN:
        cursor.execute(f"delete from {table} where list_contains($ids, run_id)", {"ids": doomed})  # noqa: S608


def _without_folders(runs: pa.Table) -> pa.Table:
    """The rows of runs without the folder that their model lay in: it means nothing on another computer."""
    plain_rows = runs.to_pylist()
    for row in plain_rows:
        summary = {name: value for name, value in json.loads(row["summary"]).items() if name != "model_path"}
        row["model_path"], row["summary"] = None, json.dumps(summary, ensure_ascii=False, allow_nan=False)
    return pa.Table.from_pylist(plain_rows, runs.schema)


def _runs_in(cursor: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    return _ids(cursor, "select run_id from read_parquet($file)", file=str(file))


def _ids(cursor: duckdb.DuckDBPyConnection, sql: str, **params: object) -> list[str]:
    return [str(i) for (i,) in cursor.execute(sql, params).fetchall()]
