"""pprobe in a notebook: a Lab keeps results and models, and gives what the pages and the command line give.

    import pprobe_core as pp

    lab = pp.Lab()                                    # in memory; pp.Lab("mine.duckdb") keeps the results
    run = lab.probe("mini-qwen3", "safety_refusal")
    run.summary["ffn_skip"]["mean"], lab.store.top_neurons(run.run_id)
    sweep = lab.sweep(run, "dose", responses=True)
    lab.store.sweep_points(sweep.sweep_id)

Only composition: the same worker, checks and store as everywhere, so the same request gives the same ids and numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Prompt
from pprobe_core.comparison import CompareRequest
from pprobe_core.errors import BadRequest, Cancelled, PprobeError
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.types import SweepKind
from pprobe_core.jobs import Jobs, JobStatus
from pprobe_core.playground import Ask, Change, Playground, Reply
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Request, Run, Store, Sweep

if TYPE_CHECKING:
    from pprobe_core.compare_frames import Compared

VISITOR = "notebook"


class Lab:
    """A results file and a worker of one's own. Close it, or use it in a `with` block, to let the file go.

    `store` reads what was found: `pairs`, `layers`, `neurons`, `top_neurons`, `first_tokens` of a run, `sweep_points`,
    `sweep_responses` of a sweep, all as DataFrames. One process at a time holds a results file.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self.store = Store(path)
        self._jobs = Jobs(self.store, resume=False)
        self._playground = Playground(self._jobs)

    def probe(self, model: str, circuit: str, **options: Any) -> Run:
        """Run the two passes of a circuit on a model. `options` are the fields of ProbeRequest: prompts, coupling, ...

        Raises BadRequest for what cannot be met, ModelUnavailable for a model that cannot be used.
        """
        status = self._finished(ProbeRequest(model=model, circuit=circuit, **options))
        return self.store.run(str(status.run_id))

    def run(self, run_id: str) -> Run:
        """A stored run by its id. Raises BadRequest when there is none."""
        return self.store.run(run_id)

    def sweep(self, run: Run | str, kind: SweepKind, **options: Any) -> Sweep:
        """Test a run by intervention: dose, factor, patch, window, strength, layers, heads, held.

        `options` are the fields of SweepRequest; what is not named is as the circuit states it. Raises BadRequest.
        """
        run_id = run if isinstance(run, str) else run.run_id
        circuit = load_circuit(self.store.run(run_id).request.circuit)
        status = self._finished(default_request(circuit, run_id, kind, **options))
        return self.store.sweep(str(status.sweep_id))

    def compare(self, models: Sequence[str], circuits: Sequence[str], **options: Any) -> "Compared":
        """Run what is missing to lay models side by side; compare_frames makes its tables.

        `options` are the fields of CompareRequest. Raises BadRequest.
        """
        from pprobe_core import compare_frames
        from pprobe_core.comparison import checked_comparison

        request = checked_comparison(CompareRequest(models=tuple(models), circuits=tuple(circuits), **options))
        self._finished(request)
        return compare_frames.compared(self.store, request)

    def ask(self, run: Run, prompt: str, *, max_new_tokens: int = 48, **change: Any) -> Reply:
        """The model's answer to a prompt as it is, changed, and under as large a random change.

        `change` are the fields of playground.Change: n_neurons, factor, ranking, layer, strength, ...
        Raises BadRequest for what cannot be met, ModelUnavailable for a model that cannot be used.
        """
        words = Prompt(({"role": "user", "content": prompt},))
        question = Ask(run.request.model, words, run.run_id, change=Change(**change), max_new_tokens=max_new_tokens)
        self._playground.ask(VISITOR, question, again=True)
        while (standing := self._playground.wait(VISITOR, 1.0)) is not None:
            if standing.state == "done" and standing.reply is not None:
                return standing.reply
            if standing.ended:
                raise BadRequest(standing.error or "The question was not answered. Ask again.")
        raise BadRequest("The question was taken back. Ask again.")

    def close(self) -> None:
        """Stop what is running and let the results file go."""
        self._playground.close()
        self._jobs.close()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finished(self, request: Request) -> JobStatus:
        """Wait for a job. An interrupted cell cancels it; asking again goes on from there."""
        job_id = self._jobs.submit(request)
        try:
            while not (status := self._jobs.wait(job_id, timeout=1.0)).ended:
                pass
        except KeyboardInterrupt:
            self._jobs.cancel(job_id)
            raise
        if status.state == "failed":
            raise PprobeError(status.error or "It failed.")
        if status.state != "done":
            raise Cancelled("It was cancelled. Asking for the same again goes on where it stopped.")
        return status
