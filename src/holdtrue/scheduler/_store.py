"""Jobs and the log on disk: SQLite through SQLAlchemy, one transaction for each thing that happens."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, final

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from holdtrue.cluster import LogRecord, record_from_values, record_to_values
from holdtrue.errors import UsageError

from ._records import JobRecord
from ._request import request_from_values, request_to_values

VERSION = "1"

_meta = MetaData()
_facts = Table(
    "facts", _meta, Column("name", String, primary_key=True), Column("value", Text, nullable=False)
)
_jobs = Table(
    "jobs",
    _meta,
    Column("number", Integer, primary_key=True),
    Column("request", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("purpose", String, nullable=False),
    Column("submitted_s", Float, nullable=False),
    Column("started_s", Float),
    Column("ended_s", Float),
    Column("exit_code", Integer),
    Column("ending", Text, nullable=False),
)
_log = Table(
    "log",
    _meta,
    Column("number", Integer, primary_key=True),
    Column("record", JSON, nullable=False),
)


@final
class Store:
    """The scheduler's file. Every change is one transaction: a kill at any moment leaves all of it or none.

    Raises:
        UsageError: the file is no database of ours, or of another version.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        self._path = path
        self._engine = _connect(path)
        try:
            _meta.create_all(self._engine)
            version = self.fact("version")
            if version is None:
                self.set_fact("version", VERSION)
        except SQLAlchemyError as error:
            raise UsageError(
                f"{path} cannot be used ({type(error).__name__}): it is damaged, or no cluster's file. Move it away, or "
                f"name another --dir."
            ) from None
        if version not in (None, VERSION):
            raise UsageError(
                f"{path} is of version {version}, and this holdtrue reads {VERSION}. Name another --dir, or use the "
                f"holdtrue that wrote it."
            )

    def fact(self, name: str) -> str | None:
        """What was kept under a name."""
        with self._engine.connect() as connection:
            return connection.execute(select(_facts.c.value).where(_facts.c.name == name)).scalar()

    def set_fact(self, name: str, value: str) -> None:
        """Keep something under a name."""
        with self._engine.begin() as connection:
            connection.execute(insert(_facts).prefix_with("OR REPLACE").values(name=name, value=value))

    def jobs(self) -> list[JobRecord]:
        """All jobs, by number."""
        with self._engine.connect() as connection:
            return [
                _record_of(row)
                for row in connection.execute(select(_jobs).order_by(_jobs.c.number)).mappings()
            ]

    def log(self, after: int = 0, limit: int | None = None) -> list[LogRecord]:
        """Events after a number, the oldest first."""
        query = select(_log.c.record).where(_log.c.number > after).order_by(_log.c.number)
        with self._engine.connect() as connection:
            return [record_from_values(value) for (value,) in connection.execute(query.limit(limit))]

    def write(
        self,
        *,
        new: Sequence[JobRecord] = (),
        changed: Sequence[JobRecord] = (),
        log: Sequence[LogRecord] = (),
    ) -> None:
        """Put new jobs, changed jobs and events down, all of them or none."""
        with self._engine.begin() as connection:
            for record in new:
                connection.execute(insert(_jobs).values(**_row_of(record)))
            for record in changed:
                connection.execute(
                    update(_jobs).where(_jobs.c.number == record.number).values(**_row_of(record))
                )
            for entry in log:
                connection.execute(insert(_log).values(number=entry.number, record=record_to_values(entry)))

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


def _connect(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", json_serializer=json.dumps)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:  # Any: the driver's connection
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    return engine


def _row_of(record: JobRecord) -> dict[str, Any]:  # Any: as the columns have it
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return values | {"request": request_to_values(record.request)}


def _record_of(row: Any) -> JobRecord:  # Any: SQLAlchemy's mapping
    values = dict(row)
    values["request"] = request_from_values(values["request"])
    return JobRecord(**values)
