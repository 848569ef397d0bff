"""What a run does to each table, as OpenLineage events: START, then COMPLETE or FAIL.

The events go to ``runs/<run_id>/openlineage.jsonl``, or to the service that ``openlineage_url``
names (key in ``OPENLINEAGE_API_KEY``). One that cannot be delivered stops no run.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyspark
from openlineage.client import OpenLineageClient
from openlineage.client import facet_v2 as facets
from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    JobEvent,
    OutputDataset,
    Run,
    RunEvent,
    RunState,
)
from openlineage.client.generated.base import set_producer
from openlineage.client.serde import Serde
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport

from lakehouse_lib.catalog import catalog
from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from lakehouse_lib.catalog.lineage import Made
    from lakehouse_lib.flow.steps import Step
    from lakehouse_lib.trust.quality import Latest

log = logging.getLogger(__name__)

NAMESPACE = "lakehouse-workbook"
PRODUCER = f"urn:{NAMESPACE}:{metadata.version(NAMESPACE)}"
FILE = "openlineage.jsonl"

set_producer(PRODUCER)
logging.getLogger("openlineage").setLevel(logging.WARNING)  # it tells of its transport for every event

_one_at_a_time = threading.Lock()


def started(settings: Settings, table: Table, run_id: str) -> None:
    """Say that work on a table begins."""
    sources = [InputDataset(*name) for name in _inputs(settings, table).values()]
    output = OutputDataset(*_dataset(delta.table_path(settings, table)))
    _emit(settings, run_id, lambda: _event(settings, table, run_id, RunState.START, {}, sources, [output]))


def ended(settings: Settings, table: Table, run_id: str, step: Step, checked: Latest) -> None:
    """Say how work on a table ended: what was read and written, which columns come from which, and
    what the checks of the sources found."""

    def event() -> RunEvent:
        more = {}
        if step.state == "failed":
            more["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(step.message, "PYTHON")
        versions = {name: version for _, says in step.ledger for name, version in says.get("sources", {}).items()}
        declared = tables.declared(settings)
        sources = []
        for name, where in _inputs(settings, table).items():
            about: dict[str, Any] = {}
            if name in versions:
                about["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(versions[name]))
            found = _assertions(checked, name)
            if name in declared:
                about |= {"schema": _schema(declared[name])}
            sources.append(InputDataset(*where, facets=about, inputFacets=found))
        state = RunState.FAIL if step.state == "failed" else RunState.COMPLETE
        return _event(settings, table, run_id, state, more, sources, [_output(settings, table, step)])

    if step.begun:
        _emit(settings, run_id, event)
    if step.checks:
        where = _dataset(delta.table_path(settings, table))
        source = InputDataset(
            *where, inputFacets=_assertions({table.name: {c.check_name: c for c in step.checks}}, table.name)
        )
        for state in (RunState.START, RunState.COMPLETE):
            _emit(settings, run_id, partial(_event, settings, table, run_id, state, {}, [source], [], "checks"))


def described(settings: Settings, names: list[str], columns: dict[str, Made]) -> list[dict[str, Any]]:
    """The jobs that make some tables, as OpenLineage's job events; datasets go by their names in the
    catalog, which the events of runs have as symlinks, and not by their places."""
    events = []
    for table in (tables.get(settings, name) for name in names):
        where = {source: (NAMESPACE, _catalogued(settings, source)) for source in _inputs(settings, table)}
        own = {name: columns[f"{table.name}.{name}"] for name in table.names if f"{table.name}.{name}" in columns}
        about = _about(table)
        if own:
            about["columnLineage"] = _columns(where, table, {name: made.direct for name, made in own.items()},
                                              {name: made.indirect for name, made in own.items()})  # fmt: skip
        event = JobEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            job=_job(table),
            inputs=[InputDataset(*name) for name in where.values()],
            outputs=[OutputDataset(NAMESPACE, _catalogued(settings, table.name), facets=about)],
        )
        events.append(Serde.to_dict(event))
    return events


def _catalogued(settings: Settings, name: str) -> str:
    """``layer.name`` of a table, or ``landing/feed``."""
    return name if name.startswith("landing/") else f"{tables.get(settings, name).layer}.{name}"


def _emit(settings: Settings, run_id: str, event: Callable[[], RunEvent]) -> None:
    transport: HttpTransport | FileTransport
    try:
        if settings.openlineage_url:
            key = os.environ.get("OPENLINEAGE_API_KEY", "")
            auth = {"auth": {"type": "api_key", "apiKey": key}} if key else {}
            transport = HttpTransport(
                HttpConfig.from_dict({"url": settings.openlineage_url, "timeout": 5, "retry": {"total": 1}, **auth})
            )
        else:
            path = settings.local_dir("runs", run_id) / FILE
            transport = FileTransport(FileConfig(log_file_path=str(path), append=True))
        with _one_at_a_time:
            OpenLineageClient(transport=transport).emit(event())
    except Exception as error:
        log.warning("an OpenLineage event could not be delivered to %s: %s", settings.openlineage_url or FILE, error)


def _event(
    settings: Settings, table: Table, run_id: str, state: RunState, more: dict[str, Any], inputs: list[InputDataset],
    outputs: list[OutputDataset], part: str = "",
) -> RunEvent:  # fmt: skip
    parent = facets.parent_run.ParentRunFacet(
        facets.parent_run.Run(_uuid(settings, run_id)), facets.parent_run.Job(NAMESPACE, "lakehouse run")
    )
    engine = facets.processing_engine_run.ProcessingEngineRunFacet(pyspark.__version__, "Spark")
    return RunEvent(
        eventTime=datetime.now(UTC).isoformat(),
        eventType=state,
        run=Run(_uuid(settings, run_id, table.name, part), {"parent": parent, "processing_engine": engine, **more}),
        job=_job(table, part),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def _job(table: Table, part: str = "") -> Job:
    name = f"{catalog.NOTEBOOKS[table.layer]}.{table.name}"
    text = f"Checks of {table.name}" if part else f"{table.transform}: {table.description}"
    return Job(NAMESPACE, f"{name}.{part}" if part else name, {
        "documentation": facets.documentation_job.DocumentationJobFacet(text),
        "jobType": facets.job_type_job.JobTypeJobFacet("BATCH", "LAKEHOUSE", "TASK"),
    })  # fmt: skip


def _output(settings: Settings, table: Table, step: Step) -> OutputDataset:
    path = delta.table_path(settings, table)
    about = _about(table)
    known = facets.symlinks_dataset.Identifier(NAMESPACE, _catalogued(settings, table.name), "TABLE")
    about["symlinks"] = facets.symlinks_dataset.SymlinksDatasetFacet([known])
    if step.version >= 0:
        about["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(step.version))
    if step.columns:
        about["columnLineage"] = _columns(
            _inputs(settings, table), table, step.columns.direct, step.columns.indirect, step.columns.by
        )
    adds = [a["add"] for row, _ in step.ledger if row["version"] >= 0
            for a in delta.actions(path, row["version"]) or [] if "add" in a]  # fmt: skip
    written = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=sum(step.counts[name] for name in ("accepted", "updated", "quarantined")),
        size=sum(add["size"] for add in adds),
        fileCount=len(adds),
    )
    return OutputDataset(*_dataset(path), facets=about, outputFacets={"outputStatistics": written})


def _about(table: Table) -> dict[str, Any]:
    """What the declaration says of a table."""
    owners = [facets.ownership_dataset.Owner(f"team:{table.owner}", "OWNER")]
    return {
        "schema": _schema(table),
        "ownership": facets.ownership_dataset.OwnershipDatasetFacet(owners),
        "documentation": facets.documentation_dataset.DocumentationDatasetFacet(table.description),
    }


def _columns(
    where: dict[str, tuple[str, str]],
    table: Table,
    direct: dict[str, list[str]],
    indirect: dict[str, list[str]],
    by: Sequence[str] = (),
) -> facets.column_lineage_dataset.ColumnLineageDatasetFacet:
    """Which columns of the sources (`where` they are) each column is made from, and ``by`` which rows are chosen."""
    kinds = facets.column_lineage_dataset

    def fields(refs: Iterable[str], kind: str) -> list[kinds.InputField]:
        """Input columns; ``table.*`` names none, and a path into a struct its column."""
        parts = {tuple(ref.split(".")[:2]) for ref in refs if not ref.endswith(".*")}
        return [
            kinds.InputField(*where[source], column, [kinds.Transformation(kind)])
            for source, column in sorted(parts)
            if source in where
        ]

    made = {
        name: kinds.Fields(fields(direct[name], "DIRECT") + fields(indirect[name], "INDIRECT"))
        for name in table.names
        if name in direct
    }
    return kinds.ColumnLineageDatasetFacet(made, fields(by, "INDIRECT"))


def _schema(table: Table) -> facets.schema_dataset.SchemaDatasetFacet:
    return facets.schema_dataset.SchemaDatasetFacet(
        [
            facets.schema_dataset.SchemaDatasetFacetFields(column.name, table.types[column.name], column.comment)
            for column in table.columns
        ]
    )


def _assertions(checked: Latest, name: str) -> dict[str, Any]:
    kinds = facets.data_quality_assertions_dataset
    found = [
        kinds.Assertion(
            result.kind, result.passed, severity=result.severity, name=result.check_name, description=result.message
        )
        for result in checked.get(name, {}).values()
        if result.passed is not None
    ]
    return {"dataQualityAssertions": kinds.DataQualityAssertionsDatasetFacet(found)} if found else {}


def _inputs(settings: Settings, table: Table) -> dict[str, tuple[str, str]]:
    """Namespace and name of each source, by its name in the lakehouse."""
    if not table.sources:
        feed = landing.feed_of(table)
        return {f"landing/{feed}": _dataset(settings.feed_path(feed))}
    return {name: _dataset(delta.table_path(settings, tables.get(settings, name))) for name in table.sources}


def _dataset(path: str) -> tuple[str, str]:
    """Namespace and name of a folder, as OpenLineage's naming rules have them."""
    parts = urlsplit(path)
    return (f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")) if parts.scheme else ("file", path)


def _uuid(settings: Settings, *parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join([settings.path(), *filter(None, parts)])))
