"""What a run does to each table, as OpenLineage events: START, then COMPLETE or FAIL.

The events go to ``runs/<run_id>/openlineage.jsonl``, or to the service that ``openlineage_url``
names (key in ``OPENLINEAGE_API_KEY``). An event that cannot be delivered does not stop a run.
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
from lakehouse_lib.model import made_by, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.storage.transactions import FINGERPRINT

if TYPE_CHECKING:
    from lakehouse_lib.catalog.lineage import Made
    from lakehouse_lib.flow.steps import Step
    from lakehouse_lib.trust.quality import Latest

log = logging.getLogger(__name__)

NAMESPACE = "lakehouse-workbook"
PRODUCER = f"urn:{NAMESPACE}:{metadata.version(NAMESPACE)}"
FILE = "openlineage.jsonl"

set_producer(PRODUCER)
logging.getLogger("openlineage").setLevel(logging.WARNING)  # it logs its transport for every event

_one_at_a_time = threading.Lock()


def started(settings: Settings, table: Table, run_id: str) -> None:
    """Report that work on a table has started."""
    sources = [InputDataset(*name) for name in _inputs(settings, table).values()]
    output = OutputDataset(*_dataset(delta.table_path(settings, table)))
    _emit(settings, run_id, lambda: _event(settings, table, run_id, RunState.START, {}, sources, [output]))


def ended(settings: Settings, table: Table, run_id: str, step: Step, checked: Latest) -> None:
    """Report how work on a table ended: what was read and written, column lineage, and the check results of the
    sources."""

    def event() -> RunEvent:
        extra = {}
        if step.state == "failed":
            extra["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(step.message, "PYTHON")
        versions = {
            name: version for _, commit_info in step.ledger for name, version in commit_info.get("sources", {}).items()
        }
        declared = tables.declared(settings)
        sources = []
        for name, dataset in _inputs(settings, table).items():
            dataset_facets: dict[str, Any] = {}
            if name in versions:
                dataset_facets["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(
                    str(versions[name])
                )
            input_facets = _assertions(checked, name)
            if name in declared:
                dataset_facets |= {"schema": _schema(declared[name])}
            sources.append(InputDataset(*dataset, facets=dataset_facets, inputFacets=input_facets))
        state = RunState.FAIL if step.state == "failed" else RunState.COMPLETE
        return _event(settings, table, run_id, state, extra, sources, [_output(settings, table, step)])

    if step.begun:
        _emit(settings, run_id, event)
    if step.checks:
        dataset = _dataset(delta.table_path(settings, table))
        source = InputDataset(
            *dataset,
            inputFacets=_assertions({table.name: {result.check_name: result for result in step.checks}}, table.name),
        )
        for state in (RunState.START, RunState.COMPLETE):
            _emit(settings, run_id, partial(_event, settings, table, run_id, state, {}, [source], [], "checks"))


def described(settings: Settings, names: list[str], columns: dict[str, Made]) -> list[dict[str, Any]]:
    """The jobs that write the given tables, as OpenLineage job events; datasets are identified by their catalog
    names, which run events carry as symlinks, and not by their locations."""
    events = []
    for table in (tables.get(settings, name) for name in names):
        datasets = {source: (NAMESPACE, _catalogued(settings, source)) for source in _inputs(settings, table)}
        lineage = {name: columns[f"{table.name}.{name}"] for name in table.names if f"{table.name}.{name}" in columns}
        dataset_facets = _declared_facets(table)
        if lineage:
            dataset_facets["columnLineage"] = _columns(
                datasets,
                table,
                {name: inputs.direct for name, inputs in lineage.items()},
                {name: inputs.indirect for name, inputs in lineage.items()},
            )
        event = JobEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            job=_job(table),
            inputs=[InputDataset(*name) for name in datasets.values()],
            outputs=[OutputDataset(NAMESPACE, _catalogued(settings, table.name), facets=dataset_facets)],
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
    settings: Settings, table: Table, run_id: str, state: RunState, extra: dict[str, Any], inputs: list[InputDataset],
    outputs: list[OutputDataset], part: str = "",
) -> RunEvent:  # fmt: skip
    parent = facets.parent_run.ParentRunFacet(
        facets.parent_run.Run(_uuid(settings, run_id)), facets.parent_run.Job(NAMESPACE, "lakehouse run")
    )
    engine = facets.processing_engine_run.ProcessingEngineRunFacet(pyspark.__version__, "Spark")
    return RunEvent(
        eventTime=datetime.now(UTC).isoformat(),
        eventType=state,
        run=Run(_uuid(settings, run_id, table.name, part), {"parent": parent, "processing_engine": engine, **extra}),
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
    dataset_facets = _declared_facets(table)
    catalog_name = facets.symlinks_dataset.Identifier(NAMESPACE, _catalogued(settings, table.name), "TABLE")
    dataset_facets["symlinks"] = facets.symlinks_dataset.SymlinksDatasetFacet([catalog_name])
    if number := delta.watermark(delta.opened(settings, table), FINGERPRINT):
        tag = facets.tags_dataset.TagsDatasetFacetFields("fingerprint", made_by.shown(number), "LAKEHOUSE")
        dataset_facets["tags"] = facets.tags_dataset.TagsDatasetFacet([tag])
    if step.version >= 0:
        dataset_facets["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(step.version))
    if step.columns:
        dataset_facets["columnLineage"] = _columns(
            _inputs(settings, table), table, step.columns.direct, step.columns.indirect, step.columns.by
        )
    adds = [action["add"] for row, _ in step.ledger if row["version"] >= 0
            for action in delta.actions(path, row["version"]) or [] if "add" in action]  # fmt: skip
    statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=sum(step.counts[name] for name in ("accepted", "updated", "quarantined")),
        size=sum(add["size"] for add in adds),
        fileCount=len(adds),
    )
    return OutputDataset(*_dataset(path), facets=dataset_facets, outputFacets={"outputStatistics": statistics})


def _declared_facets(table: Table) -> dict[str, Any]:
    """The dataset facets that come from a table's declaration."""
    owners = [facets.ownership_dataset.Owner(f"team:{table.owner}", "OWNER")]
    return {
        "schema": _schema(table),
        "ownership": facets.ownership_dataset.OwnershipDatasetFacet(owners),
        "documentation": facets.documentation_dataset.DocumentationDatasetFacet(table.description),
    }


def _columns(
    datasets: dict[str, tuple[str, str]],
    table: Table,
    direct: dict[str, list[str]],
    indirect: dict[str, list[str]],
    by: Sequence[str] = (),
) -> facets.column_lineage_dataset.ColumnLineageDatasetFacet:
    """The source columns that each column is made from, and those (``by``) that choose the rows; ``datasets`` holds
    namespace and name of each source."""
    kinds = facets.column_lineage_dataset

    def fields(refs: Iterable[str], kind: str) -> list[kinds.InputField]:
        """Input columns; ``table.*`` adds none, and a path into a struct adds the struct's column."""
        parts = {tuple(ref.split(".")[:2]) for ref in refs if not ref.endswith(".*")}
        return [
            kinds.InputField(*datasets[source], column, [kinds.Transformation(kind)])
            for source, column in sorted(parts)
            if source in datasets
        ]

    columns = {
        name: kinds.Fields(fields(direct[name], "DIRECT") + fields(indirect[name], "INDIRECT"))
        for name in table.names
        if name in direct
    }
    return kinds.ColumnLineageDatasetFacet(columns, fields(by, "INDIRECT"))


def _schema(table: Table) -> facets.schema_dataset.SchemaDatasetFacet:
    return facets.schema_dataset.SchemaDatasetFacet(
        [
            facets.schema_dataset.SchemaDatasetFacetFields(column.name, table.types[column.name], column.comment)
            for column in table.columns
        ]
    )


def _assertions(checked: Latest, name: str) -> dict[str, Any]:
    kinds = facets.data_quality_assertions_dataset
    assertions = [
        kinds.Assertion(
            result.kind, result.passed, severity=result.severity, name=result.check_name, description=result.message
        )
        for result in checked.get(name, {}).values()
        if result.passed is not None
    ]
    return {"dataQualityAssertions": kinds.DataQualityAssertionsDatasetFacet(assertions)} if assertions else {}


def _inputs(settings: Settings, table: Table) -> dict[str, tuple[str, str]]:
    """Namespace and name of each source, by its lakehouse name."""
    if not table.sources:
        feed = landing.feed_of(table)
        return {f"landing/{feed}": _dataset(settings.feed_path(feed))}
    return {name: _dataset(delta.table_path(settings, tables.get(settings, name))) for name in table.sources}


def _dataset(path: str) -> tuple[str, str]:
    """Namespace and name of a folder, by OpenLineage's naming rules."""
    parts = urlsplit(path)
    return (f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")) if parts.scheme else ("file", path)


def _uuid(settings: Settings, *parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join([settings.path(), *filter(None, parts)])))
