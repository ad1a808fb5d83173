"""The command line: models, circuits, probe, sweep, respond, runs, train.

Exit codes: 0 done, 2 bad request, 3 the model, 130 cancelled.
"""

import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from pprobe_core.cli import output
from pprobe_core.cli.parser import build_parser
from pprobe_core.errors import Cancelled, PprobeError

INTERNAL_ERROR = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every error is one sentence on stderr."""
    output.quiet_libraries()
    try:
        options = build_parser().parse_args(arguments)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except PprobeError as error:
        return output.fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return output.fail("Stopped.", Cancelled.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain at exit when it flushes what is left.
        output.discard_stdout()
        return 0
    except Exception as error:
        return output.fail(_internal_error(error), INTERNAL_ERROR)


def _internal_error(error: Exception) -> str:
    sentence = f"This should not have happened: an internal error ({type(error).__name__}). Stored runs are unharmed"
    log = Path(tempfile.gettempdir()) / "pprobe.log"
    try:
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{sentence}."
    return f"{sentence}; the details for a bug report are in {log}."
