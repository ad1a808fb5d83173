"""All SQL of jobs: what was asked for, how far it got, and the finished pieces of unfinished jobs."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pprobe_core.comparison import CompareRequest
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.probing.types import ProbeRequest, tupled
from pprobe_core.store.database import Database, utc_now
from pprobe_core.store.plain import plain
from pprobe_core.store.sweeps import BESIDE, SWEEP_TABLES, drop_sweep, sweep_request

Request = ProbeRequest | SweepRequest | CompareRequest

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
BlockKind = Literal["capture", "generation"]


@dataclass(frozen=True)
class JobRow:
    """One job as the file knows it; live progress is known to the worker only."""

    job_id: str
    state: State
    request: Request
    request_key: str | None
    run_id: str | None
    sweep_id: str | None
    error: str | None
    exit_code: int | None  # of the command line, where it failed
    created_at: datetime  # UTC
    here: bool = False  # asked to compute although a recorded result is there


def job_id_of(request: Request) -> str:
    """Identity of a request: asking for the same thing again meets the same job."""
    return hashlib.sha256(_text(request).encode()).hexdigest()[:12]


class JobTable(Database):
    """Jobs and their partial results."""

    def add_job(self, request: Request, *, here: bool = False) -> JobRow:
        """Put a request in the queue: a new job, or the same request's old one again; one under way is left alone.

        With `here` a recorded result does not count as the answer. A cancelled or interrupted job goes on where it
        stopped: its partial results stay, and it is still computed here.
        """
        job_id = job_id_of(request)
        with self._transaction() as cursor:
            cursor.execute(
                """
                insert into jobs (job_id, created_at, state, request, here)
                values ($job, $now, 'queued', $request, $here)
                on conflict do nothing
                """,
                {"job": job_id, "now": utc_now(), "request": _text(request), "here": here},
            )
            cursor.execute(
                """
                update jobs set state = 'queued', created_at = $now, error = null, exit_code = null,
                                here = $here or (here and state in ('cancelled', 'interrupted'))
                where job_id = $job and state not in ('queued', 'running')
                """,
                {"job": job_id, "now": utc_now(), "here": here},
            )
        job = self.job(job_id)
        assert job is not None  # noqa: S101  (just written)
        return job

    def job(self, job_id: str) -> JobRow | None:
        """One job, or None."""
        return next(iter(self._jobs("where job_id = $job", job=job_id)), None)

    def jobs(self) -> list[JobRow]:
        """All jobs, newest first."""
        return self._jobs("order by created_at desc, job_id")

    def active_jobs(self) -> list[JobRow]:
        """Jobs that wait or run, newest first."""
        return self._jobs("where state in ('queued', 'running') order by created_at desc, job_id")

    def latest_job(self) -> JobRow | None:
        """The job that was asked for last, or None."""
        return next(iter(self._jobs("order by created_at desc, job_id limit 1")), None)

    def unfinished_jobs(self) -> list[JobRow]:
        """Jobs that a worker should take up, in the order they were asked for."""
        return self._jobs("where state in ('queued', 'interrupted') order by created_at, job_id")

    def mark_interrupted(self) -> None:
        """At start: what is still marked running belonged to a process that is gone, as only one can hold the file."""
        with self._transaction() as cursor:
            cursor.execute("update jobs set state = 'interrupted' where state = 'running'")

    def set_job_state(
        self,
        job_id: str,
        state: State,
        *,
        error: str | None = None,
        exit_code: int | None = None,
        run_id: str | None = None,
        sweep_id: str | None = None,
    ) -> None:
        """Move a job to another state; a run_id or sweep_id that is known stays known."""
        with self._transaction() as cursor:
            cursor.execute(
                """
                update jobs set state = $state, error = $error, exit_code = $code, run_id = coalesce($run, run_id),
                                sweep_id = coalesce($sweep, sweep_id)
                where job_id = $job
                """,
                {
                    "state": state,
                    "error": error,
                    "code": exit_code,
                    "run": run_id,
                    "sweep": sweep_id,
                    "job": job_id,
                },
            )

    def start_job(self, job_id: str, request_key: str) -> None:
        """Note what exactly is computed; partial results of anything else (changed weights or prompts) are dropped."""
        with self._transaction() as cursor:
            cursor.execute(
                """
                delete from job_blocks
                where job_id = $job
                  and exists (select 1 from jobs where job_id = $job and request_key is distinct from $key)
                """,
                {"job": job_id, "key": request_key},
            )
            cursor.execute(
                "update jobs set request_key = $key where job_id = $job", {"job": job_id, "key": request_key}
            )

    def clean_jobs(self, days: int = 14) -> None:
        """Forget jobs that ended more than `days` ago without a run, so that their partial results do not pile up."""
        with self._transaction() as cursor:
            old = cursor.execute(
                "select job_id, sweep_id from jobs where state in ('cancelled', 'failed') and created_at < $then",
                {"then": utc_now() - timedelta(days=days)},
            ).fetchall()
            for job_id, sweep_id in old:
                cursor.execute("delete from job_blocks where job_id = $job", {"job": job_id})
                cursor.execute("delete from jobs where job_id = $job", {"job": job_id})
                for table in SWEEP_TABLES:  # measured beside a recorded one
                    cursor.execute(f"delete from {table} where sweep_id = $s", {"s": f"{sweep_id}{BESIDE}"})  # noqa: S608
                finished = cursor.execute("select 1 from sweeps where sweep_id = $s", {"s": sweep_id}).fetchone()
                if sweep_id is not None and finished is None:
                    drop_sweep(cursor, sweep_id)

    def drop_blocks(self, job_id: str) -> None:
        """Forget the partial results of a job, so that it starts afresh the next time."""
        with self._transaction() as cursor:
            cursor.execute("delete from job_blocks where job_id = $job", {"job": job_id})

    def add_block(self, job_id: str, kind: BlockKind, block: int, payload: bytes) -> None:
        """Commit one finished piece of a job; a piece that is there already stays."""
        with self._transaction() as cursor:
            cursor.execute(
                "insert into job_blocks values ($job, $kind, $block, $payload) on conflict do nothing",
                {"job": job_id, "kind": kind, "block": block, "payload": payload},
            )

    def blocks(self, job_id: str, kind: BlockKind) -> list[bytes]:
        """The committed pieces of a job from number 0 on, up to the first gap."""
        rows = self._rows(
            "select block, payload from job_blocks where job_id = $job and kind = $kind order by block",
            job=job_id,
            kind=kind,
        )
        return [bytes(payload) for position, (block, payload) in enumerate(rows) if position == block]

    def _jobs(self, tail: str, **params: str) -> list[JobRow]:
        rows = self._rows(
            f"select job_id, state, request, request_key, run_id, sweep_id, error, exit_code, created_at, "  # noqa: S608
            f"coalesce(here, false) "
            f"from jobs {tail}",
            **params,
        )
        return [JobRow(job_id, state, _request(json.loads(request)), *rest) for job_id, state, request, *rest in rows]


def _request(values: dict[str, Any]) -> Request:
    """A request from its JSON: those of sweeps have a kind, those of comparisons several models."""
    if "models" in values:
        return CompareRequest(**tupled(values))
    return sweep_request(values) if "kind" in values else ProbeRequest.from_json(values)


def _text(request: Request) -> str:
    values = request.as_json() if isinstance(request, ProbeRequest) else request
    return json.dumps(plain(values), sort_keys=True, ensure_ascii=False)
