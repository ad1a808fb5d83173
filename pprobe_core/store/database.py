"""The results file: one connection per file and process, one writer at a time, migrations, plain errors."""

import itertools
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import duckdb
import pandas as pd
import pyarrow as pa

from pprobe_core.errors import StoreUnavailable

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
MEMORY = ":memory:"
# DuckDB takes 80 % of the machine by default; the model beside it needs that memory more.
CONFIG: dict[str, str | int | float | list[str]] = {"memory_limit": "1GB", "threads": 2}

# Words in DuckDB's and the operating system's messages, lower case.
NO_SPACE = ("no space left", "file too large", "disk quota", "not enough space")
NO_PERMISSION = ("permission denied", "read-only", "access is denied", "operation not permitted")
DAMAGE = ("corrupt", "checksum", "could not read enough bytes", "replaying wal", "deserializ")
KEPT = 600  # what was read of finished runs and sweeps and stays in memory: up to some 50 kB each
OTHER_FILE = "or work in another file (--db FILE on the command line, PPROBE_DB for the dashboard)"


Found = TypeVar("Found")


class NotWritable(StoreUnavailable):
    """The results file cannot be made or written where it should be: no permission, a read-only or a full disk."""


_editions = itertools.count()


@dataclass
class _Shared:
    """What all `Database` objects of one file share: the connection and the write lock."""

    name: str
    connection: duckdb.DuckDBPyConnection | None = None
    users: int = 0
    read_only: bool = False
    edition: int = field(default_factory=lambda: next(_editions))
    n_saved: int = 0  # runs and sweeps that were stored since the opening
    kept: dict[Hashable, Any] = field(default_factory=dict)
    kept_lock: threading.Lock = field(default_factory=threading.Lock)
    # DuckDB refuses two writers of one row instead of queueing them, so writers queue here. Readers need no lock.
    write_lock: threading.RLock = field(default_factory=threading.RLock)
    connect_lock: threading.RLock = field(default_factory=threading.RLock)


# Locks are always taken in this order: the registry's, the write lock, the connect lock.
_registry: dict[Path, _Shared] = {}
_registry_lock = threading.RLock()


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of every migration, in order; they are append-only."""
    files = sorted(MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [(int(file.name[:4]), file.read_text(encoding="utf-8")) for file in files]


def utc_now() -> datetime:
    """The present moment in UTC, without a zone mark, as the file stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def explain(error: duckdb.Error, name: str) -> str:
    """One or two plain sentences for whatever DuckDB said about the file `name`: what was seen and what to do."""
    seen = str(error)
    low = seen.lower()
    if "lock on file" in low or "used by another process" in low:
        holder = re.search(r"PID (\d+)", seen)
        who = f"process {holder[1]}" if holder else "another process"
        return f"The results file {name} is in use by {who}. Close that one (a dashboard or a probe), {OTHER_FILE}."
    if "not a valid duckdb database file" in low:
        return (
            f"{name} exists, but it is not a results file (it is empty, damaged at its start, or something else). "
            f"It was left as it is: move it away or restore a copy, {OTHER_FILE}."
        )
    if any(word in low for word in NO_SPACE):
        return (
            f"The disk that holds the results file {name} is full, so this was not saved; "
            f"what was saved before is safe. Free some space and try again, {OTHER_FILE}."
        )
    if any(word in low for word in NO_PERMISSION):
        return f"The results file {name} cannot be written (no permission). Allow writing to its folder, {OTHER_FILE}."
    if "is a directory" in low:
        return f"{name} is a folder, not a results file. Name a file in it, for example {Path(name) / 'pprobe.duckdb'}."
    if "cannot open file" in low:
        return f"The results file {name} cannot be created there ({_last_part(seen)}). Check the folder, {OTHER_FILE}."
    if "version number" in low or "newer version of duckdb" in low:
        return f"The results file {name} was written by another version of DuckDB. Update pprobe, {OTHER_FILE}."
    if any(word in low for word in DAMAGE):
        return (
            f"The results file {name} is damaged ({_last_part(seen)}). Nothing in it was changed: "
            f"restore a copy, or move it away together with the .wal file beside it, {OTHER_FILE}."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return f"Reading the results file {name} needs more memory than the {CONFIG['memory_limit']} it may use."
    return f"The results file {name} could not be used: {seen.splitlines()[0] if seen else type(error).__name__}"


def _unavailable(error: duckdb.Error, name: str) -> StoreUnavailable:
    low = str(error).lower()
    kind = NotWritable if any(word in low for word in (*NO_SPACE, *NO_PERMISSION)) else StoreUnavailable
    return kind(explain(error, name))


def _last_part(message: str) -> str:
    """The reason at the end of DuckDB's first line, without the file name that the sentence already has."""
    first = message.splitlines()[0]
    return first.rsplit('": ', 1)[-1].removeprefix("IO Error: ").strip().rstrip(".")


class Database:
    """One results file, opened and brought up to date. Safe to use from any thread.

    Raises StoreUnavailable when the file cannot be opened, is damaged, belongs to something else or is newer than this
    program; nothing is deleted or overwritten in these cases. `":memory:"` is a file that ends with the process.

    `reading` promises that nothing will be stored: then a file that is there but cannot be written is opened read-only,
    unless it has an older layout.
    """

    def __init__(self, path: Path | str, *, reading: bool = False) -> None:
        self.in_memory = str(path) == MEMORY
        self.path = Path(MEMORY) if self.in_memory else Path(path).expanduser().resolve()
        self._closed = False
        with _registry_lock:
            state = _Shared(MEMORY) if self.in_memory else _registry.setdefault(self.path, _Shared(str(self.path)))
            self._state = state
            try:
                if not state.users:
                    self._open(reading)
                elif state.read_only and not reading:
                    raise NotWritable(
                        f"The results file {state.name} is open for reading only, as it cannot be written. "
                        f"Allow writing to it and its folder, {OTHER_FILE}."
                    )
                state.users += 1
            except StoreUnavailable:
                if not state.users:
                    self._disconnect()
                    _registry.pop(self.path, None)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go; the last user of it in this process also releases its lock. Closing twice is harmless."""
        with _registry_lock:
            if self._closed:
                return
            self._closed = True
            self._state.users -= 1
            if self._state.users <= 0:
                with self._state.write_lock:
                    self._disconnect()
                _registry.pop(self.path, None)

    @property
    def edition(self) -> str:
        """Another text at every opening, and whenever finished results are deleted or give way under their ids.

        Whoever keeps in memory what was read of a result names it by the result's id and this.
        """
        return f"{self.path}#{self._state.edition}"

    @property
    def listing(self) -> str:
        """Another text whenever the lists of runs and sweeps may be others: `edition`, and what was stored since."""
        return f"{self.edition}+{self._state.n_saved}"

    # -- what the SQL modules use --

    def _replaced(self) -> None:
        """Call after the transaction in which finished results gave way or were deleted."""
        self._state.kept = {}  # a new one: who is reading the old results keeps them where nobody looks
        self._state.edition = next(_editions)

    def _saved(self) -> None:
        """Call after the transaction in which a run or a sweep was stored."""
        self._state.n_saved += 1

    def _kept(self, key: Hashable, read: Callable[[], Found]) -> Found:
        """What `read` finds, read once: for what stays as it is until a finished result is deleted or gives way.

        All who ask get the same object, so nobody may write to it. None is not kept.
        """
        self._connection()  # a closed store says so
        kept, lock = self._state.kept, self._state.kept_lock
        with lock:
            found: Found | None = kept.pop(key, None)
            if found is not None:
                kept[key] = found  # the last one now: what was not asked for the longest goes first
                return found
        read_now = read()
        if read_now is not None:
            with lock:
                kept[key] = read_now
                while len(kept) > KEPT:
                    del kept[next(iter(kept))]
        return read_now

    def _is_there(self, sql: str, **params: Any) -> bool:
        """Whether a query for a finished result finds it; once it does, it is not asked again."""
        return self._kept((sql, *params.values()), lambda: self._rows(sql, **params) or None) is not None

    def _rows(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._cursor() as cursor:
            return cursor.execute(sql, params).fetchall()

    def _frame(self, sql: str, **params: Any) -> pd.DataFrame:
        """All rows of a query as a DataFrame; lists come back as Python lists, times as UTC."""
        with self._cursor() as cursor:
            result = cursor.execute(sql, params)
            list_columns = [name for name, kind, *_ in result.description or () if str(kind).endswith("[]")]
            frame = result.df()
        for column in list_columns:
            frame[column] = pd.Series([None if value is None else list(value) for value in frame[column]], dtype=object)
        for column in frame.select_dtypes("datetime").columns:
            frame[column] = frame[column].dt.tz_localize("UTC")
        return frame

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor inside one transaction: all of it is stored, or nothing."""
        with self._state.write_lock, self._cursor() as cursor:
            cursor.begin()
            try:
                yield cursor
                cursor.commit()
            except BaseException:
                _rollback(cursor)
                raise

    @staticmethod
    def _insert(
        cursor: duckdb.DuckDBPyConnection,
        table: str,
        frame: pd.DataFrame,
        columns: Sequence[str],
        *,
        verb: Literal["insert", "insert or ignore"] = "insert",
        **fixed: Any,
    ) -> None:
        """Bulk insert of `columns` of `frame`, with `fixed` values for further columns; all names come from code."""
        incoming = pa.Table.from_pandas(frame[list(columns)], preserve_index=False)
        names = ", ".join([*fixed, *columns])
        values = ", ".join([*(f"${name}" for name in fixed), *columns])
        cursor.register("incoming", incoming)
        cursor.execute(f"{verb} into {table} ({names}) select {values} from incoming", fixed)  # noqa: S608
        cursor.unregister("incoming")  # not after an error: the cursor ends then, and this would hide the reason

    # -- connection --

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor for one call; the one place where DuckDB's errors become sentences."""
        try:
            cursor = self._connection().cursor()
            try:
                yield cursor
            finally:
                cursor.close()
        except duckdb.FatalException as error:
            # DuckDB refuses every further call on this connection (a full disk does this): the next call starts afresh.
            self._disconnect()
            raise _unavailable(error, self._state.name) from error
        except duckdb.Error as error:
            raise _unavailable(error, self._state.name) from error
        except RuntimeError as error:  # how DuckDB passes on a Ctrl-C that came during a query
            if "query interrupted" in str(error).lower():
                raise KeyboardInterrupt from error
            raise

    def _connection(self) -> duckdb.DuckDBPyConnection:
        """The shared connection, opened when there is none: at first, and after a fatal error."""
        name = self._state.name
        try:
            with self._state.connect_lock:
                if self._closed:
                    raise StoreUnavailable(f"The results file {name} was closed; start again.")
                if self._state.connection is None:
                    if not self.in_memory:
                        self.path.parent.mkdir(parents=True, exist_ok=True)
                        self._refuse_orphaned_log()
                    self._state.connection = duckdb.connect(name, read_only=self._state.read_only, config=dict(CONFIG))
                return self._state.connection
        except OSError as error:
            reason = error.strerror or str(error)
            raise NotWritable(
                f"The folder of the results file {name} cannot be made ({reason}). Check the path, {OTHER_FILE}."
            ) from error

    def _refuse_orphaned_log(self) -> None:
        """A log without its file holds runs that a new file would silently throw away."""
        log = self.path.with_name(f"{self.path.name}.wal")
        if log.exists() and not self.path.exists():
            raise StoreUnavailable(
                f"The results file {self.path} is not there, but its log {log.name} is and may hold runs. "
                f"Put the file back beside it, or move the log to where the file went, {OTHER_FILE}."
            )

    def _disconnect(self) -> None:
        with self._state.connect_lock:
            connection, self._state.connection = self._state.connection, None
        self._replaced()  # what is opened next may be another file
        if connection is not None:
            with suppress(duckdb.Error):  # what was committed is in the write-ahead log and is read at the next start
                connection.close()

    def _open(self, reading: bool) -> None:
        """Connect and migrate; a file that can only be read is good enough for a reader."""
        try:
            self._migrate()
        except NotWritable:
            if not reading or self.in_memory or not self.path.is_file():
                raise
            self._disconnect()
            self._state.read_only = True
            self._migrate()

    def _migrate(self) -> None:
        """Apply the migrations the file has not seen, each in a transaction with its version row."""
        known = migrations()
        latest = known[-1][0]
        with self._transaction() as cursor:
            tables = {name for (name,) in cursor.execute("select table_name from duckdb_tables()").fetchall()}
            if "schema_version" not in tables:
                if tables:
                    raise StoreUnavailable(
                        f"{self._state.name} is a DuckDB file of something else "
                        f"(it holds {', '.join(sorted(tables)[:3])}). "
                        f"It was left as it is: name a new file, {OTHER_FILE}."
                    )
                if self._state.read_only:
                    raise self._outdated(0, latest)
                cursor.execute(
                    "create table schema_version (version integer primary key, applied_at timestamp not null)"
                )
        version = self.schema_version()
        if version > latest:
            raise StoreUnavailable(
                f"The results file {self._state.name} was written by a newer pprobe (layout {version}, this one knows "
                f"up to {latest}). It was left as it is: update pprobe, {OTHER_FILE}."
            )
        if version < latest and self._state.read_only:
            raise self._outdated(version, latest)
        for number, sql in known:
            if number > version:
                with self._transaction() as cursor:
                    cursor.execute(sql)
                    cursor.execute("insert into schema_version values ($n, $now)", {"n": number, "now": utc_now()})

    def _outdated(self, version: int, latest: int) -> NotWritable:
        return NotWritable(
            f"The results file {self._state.name} has an older layout ({version}, this program reads {latest}) and "
            f"cannot be written to bring it up to date. Open it once where it can be written, {OTHER_FILE}."
        )

    def schema_version(self) -> int:
        """Number of the last migration the file has seen; 0 for a new file."""
        return int(self._rows("select coalesce(max(version), 0) from schema_version")[0][0])


def _rollback(cursor: duckdb.DuckDBPyConnection) -> None:
    """Undo; a failed commit or a fatal error has already done so, and then DuckDB says there is nothing to undo."""
    with suppress(duckdb.Error):
        cursor.rollback()
