"""Column lineage, OpenLineage events, and traces from any row to its record, on sample input in two halves."""

from __future__ import annotations

import csv
import gzip
import http.server
import json
import random
import re
import threading
import types
import typing
from datetime import UTC, date, datetime
from pathlib import Path

import attr
import pyarrow as pa
import pytest
from conftest import event
from deltalake import DeltaTable
from openlineage.client import event_v2, facet_v2
from openlineage.client.generated import base

from lakehouse_lib import cli, config, sample
from lakehouse_lib.catalog import lineage, trace
from lakehouse_lib.config import SampleSettings, Settings
from lakehouse_lib.errors import ConfigError, LakehouseError, TableError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.layers.inputs import Inputs
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

EXPECTED = """
app_events_silver
  event_id         event_id
  user_id          user_id
  session_id       session_id
  event_type       event_type
  app_type         app_type
  event_timestamp  event_timestamp
  event_date       event_date
  event_hour       event_timestamp
  device_type      device_info
  device_os        device_info
  device_model     device_info
  app_version      device_info
  country          event_properties
  event_value      event_properties
  duration_ms      event_properties
  is_error         event_properties event_type

clickstream_silver
  session_id         user_id anonymous_id click_timestamp click_id
  user_id            user_id anonymous_id
  client_session_id  client_session_id
  session_start_time click_timestamp
  session_end_time   click_timestamp
  session_date       click_timestamp
  session_duration_seconds click_timestamp
  page_sequence      page_name
  total_clicks       *
  distinct_pages     page_name
  entry_page         page_name
  exit_page          page_name
  is_bounce          *
  avg_response_time_ms response_time_ms
  error_count        * status_code
  _visitor           user_id anonymous_id
  _clicks            click_id click_timestamp page_name client_session_id response_time_ms status_code
  _clicks.click_id   click_id
  _clicks.click_timestamp click_timestamp
  _clicks.page_name  page_name
  _clicks.client_session_id client_session_id
  _clicks.response_time_ms response_time_ms
  _clicks.status_code status_code

users_history_silver
  user_id          _after _before primary_key
  email            _after
  name             _after
  country          _after
  plan             _after
  signup_date      _after
  attributes       _after
  operation_type   operation_type
  valid_from       change_timestamp
  valid_to         change_timestamp
  is_current       change_timestamp
  _changed_at      change_timestamp
  _source_file     _source_file
  _source_line     _source_line

users_silver
  user_id          users_history_silver.user_id app_events_silver.user_id clickstream_silver.user_id
  email            users_history_silver.email
  name             users_history_silver.name
  country          users_history_silver.country
  plan             users_history_silver.plan
  signup_date      users_history_silver.signup_date
  attributes       users_history_silver.attributes
  is_known         users_history_silver.*
  is_deleted       users_history_silver.operation_type
  deleted_at       users_history_silver.valid_from
  first_seen_date  app_events_silver.event_date clickstream_silver.session_date
  last_seen_date   app_events_silver.event_date clickstream_silver.session_date
  total_events     app_events_silver.*
  total_sessions   clickstream_silver.*
  is_active        app_events_silver.event_date clickstream_silver.session_date users_history_silver.operation_type

event_metrics_gold
  metric_date      event_date
  metric_hour      event_hour
  event_type       event_type
  app_type         app_type
  total_events     *
  unique_users     user_id
  avg_event_value  event_value
  min_event_value  event_value
  max_event_value  event_value
  sum_event_value  event_value

hourly_metrics_gold
  metric_date      app_events_silver.event_timestamp clickstream_silver.session_start_time clickstream_silver._clicks.click_timestamp REJECTED.load_timestamp
  metric_hour      app_events_silver.event_timestamp clickstream_silver.session_start_time clickstream_silver._clicks.click_timestamp REJECTED.load_timestamp
  total_events     app_events_silver.*
  total_clicks     clickstream_silver._clicks
  unique_users     app_events_silver.user_id clickstream_silver.user_id
  total_sessions   clickstream_silver.*
  avg_response_time_ms clickstream_silver._clicks.response_time_ms
  p95_response_time_ms clickstream_silver._clicks.response_time_ms
  error_count      app_events_silver.is_error clickstream_silver._clicks.status_code
  error_rate       app_events_silver.is_error clickstream_silver._clicks.status_code app_events_silver.* clickstream_silver._clicks
  records_rejected REJECTED.*

daily_summary_gold
  summary_date     app_events_silver.event_date clickstream_silver.session_date
  total_users      app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  wau              app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  mau              app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  stickiness       app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  new_users        app_events_silver.user_id clickstream_silver.user_id
  returning_users  app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  return_user_percentage app_events_silver.user_id app_events_silver.event_date clickstream_silver.user_id clickstream_silver.session_date
  total_events     app_events_silver.*
  total_sessions   clickstream_silver.*
  avg_session_duration clickstream_silver.session_duration_seconds clickstream_silver.*
  bounce_rate      clickstream_silver.is_bounce clickstream_silver.*
  total_value      app_events_silver.event_value

user_segments_gold
  user_id          users_silver.user_id
  segment_date     users_silver.last_seen_date
  segment_name
  recency_days     users_silver.last_seen_date
  frequency        app_events_silver.* app_events_silver.event_date users_silver.last_seen_date
  monetary_value   app_events_silver.event_value
  lifetime_value   app_events_silver.event_value
  engagement_score users_silver.last_seen_date app_events_silver.* app_events_silver.event_date app_events_silver.event_value
  risk_of_churn    users_silver.last_seen_date
  recommended_action
"""  # noqa: E501 - a table
"""By hand: what the value of each column comes from; ``*``: how many rows there are."""

CHOSEN = {
    "user_segments_gold.segment_name": {"users_silver.last_seen_date", "app_events_silver.event_date",
                                        "app_events_silver.event_value", "app_events_silver.*"},
    "user_segments_gold.monetary_value": {"app_events_silver.event_date", "users_silver.last_seen_date"},
    "users_silver.deleted_at": {"users_history_silver.operation_type"},
    "users_history_silver.email": {"cdc_changes_bronze.operation_type", "cdc_changes_bronze._before",
                                   "cdc_changes_bronze.primary_key", "cdc_changes_bronze._unchanged"},
    "app_events_silver.event_value": set(),
}  # fmt: skip
"""By hand: what decides which value it is, for columns that are chosen and some that are not."""


def by_hand() -> dict[str, set[str]]:
    """`EXPECTED` as sources by ``table.column``."""
    expected, table = {}, None
    declared = tables.declared(Settings())
    for line in filter(None, EXPECTED.splitlines()):
        if not line.startswith(" "):
            table = declared[line]
            continue
        column, *refs = line.split()
        full = set()
        for ref in refs:
            names = [ref] if re.match(r"(\w+_(silver|gold|bronze)|REJECTED)\.", ref) else [f"{table.sources[0]}.{ref}"]
            if ref.startswith("REJECTED"):
                names = [ref.replace("REJECTED", name) for name in table.sources if name.endswith("_quarantine")]
            full.update(names)
        expected[f"{table.name}.{column}"] = full
    return expected


@pytest.fixture(scope="module")
def lake(engine, tmp_path_factory) -> Settings:
    """A dirty sample, of which every second file comes with a second run: events are late, sessions
    are lengthened, users change, so that tables are merged into."""
    base_path = tmp_path_factory.mktemp("lineage")
    rules = SampleSettings(days=4, end=date(2026, 3, 10), share_duplicates=0.05, share_late=0.1, share_redelivered=0.05)
    sample.write(rules, base_path / "all", 6_000)
    settings = config.load({"lakehouse_base_path": str(base_path), "spark_master": engine, "sample": {"rows": 0}})
    files = sorted(path for path in (base_path / "all").rglob("*") if path.is_file())
    for half in (0, 1):
        for file in files[half::2]:
            target = base_path / "landing" / file.relative_to(base_path / "all")
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        result = pipeline.run(settings.model_copy(update={"run_id": f"run{half}"}), progress=lambda line: None)
        assert not result.problems
        (base_path / f"columns{half}.json").write_text(
            json.dumps(
                {name: [columns.direct, columns.indirect] for name, columns in lineage.columns(settings).items()}
            )
        )
    return settings


@pytest.mark.parametrize("half", [0, 1])
def test_column_lineage_matches_the_expected_map(lake, half):
    """After a first load, and after one that merges into the tables."""
    merged = {
        t.name
        for t in tables.declared(lake).values()
        if any(e["operation"] == "MERGE" for e in DeltaTable(delta.table_path(lake, t)).history())
    }
    assert {"clickstream_silver", "users_history_silver", "users_silver", "user_segments_gold"} <= merged
    actual = json.loads(Path(lake.path(f"columns{half}.json")).read_text())
    expected = by_hand()
    declared = {f"{t.name}.{c}" for t in tables.declared(lake).values() if t.layer in ("silver", "gold")
                for c in t.names if c not in ("_run_id", "_processed_at")}  # fmt: skip
    assert declared <= expected.keys()
    for column, refs in expected.items():
        assert set(actual.get(column, [[]])[0]) == refs, column
    assert {name for name in actual if name.split(".")[0].endswith(("_silver", "_gold"))} <= expected.keys()
    for column, refs in CHOSEN.items():
        assert set(actual[column][1]) == refs, column


def test_column_lineage_reaches_feed_fields_and_gold(lake):
    up = lineage.column_upstream(lake, "daily_summary_gold.bounce_rate")
    assert "clickstream_bronze.*" in up and "landing/clickstream.click_id" not in up
    up = lineage.column_upstream(lake, "users_silver.last_seen_date")
    assert {"landing/app_events.event_timestamp", "landing/clickstream.timestamp"} <= set(up)
    down = lineage.column_downstream(lake, "clickstream_bronze.response_time_ms")
    assert set(down) == {
        "clickstream_bronze.response_time_ms",
        "clickstream_silver.avg_response_time_ms",
        "clickstream_silver._clicks",
        "clickstream_silver._clicks.response_time_ms",
        "hourly_metrics_gold.avg_response_time_ms",
        "hourly_metrics_gold.p95_response_time_ms",
    }
    assert "hourly_metrics_gold.total_clicks" in lineage.column_downstream(lake, "clickstream_silver._clicks")
    with pytest.raises(ConfigError, match="users_silver has no column 'nothing'"):
        lineage.column_upstream(lake, "users_silver.nothing")


def test_lineage_command_shows_columns(lake, capsys, monkeypatch):
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    assert cli.main(["lineage", "users_silver.email", "--up"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[:3] == ["Made from:", "    users_silver.email", "        users_history_silver.email"]
    assert "landing/cdc_changes._after" in output and "Which value it is" not in output
    assert cli.main(["lineage", "landing/app_events.properties", "--down"]) == 0
    assert "event_metrics_gold.sum_event_value" in capsys.readouterr().out


def test_table_defined_in_sql_has_column_lineage(lake, extra_table):
    extra_table(Table(
        name="busy_days_gold", layer="gold", description="Days with many users", grain="day", key=("day",),
        sources=("daily_summary_gold", "users_silver"), transform="test_lineage.busy_days",
        declared="""
        day     date   required -- day
        users   bigint          -- users seen
        known   bigint required -- users with a name
        """,
    ))  # fmt: skip
    pipeline.run(lake.model_copy(update={"tables": "busy_days_gold"}), progress=lambda line: None).check()
    actual = lineage.columns(lake)
    assert actual["busy_days_gold.day"].direct == ["daily_summary_gold.summary_date"]
    assert actual["busy_days_gold.users"].direct == ["daily_summary_gold.mau", "daily_summary_gold.total_users"]
    assert actual["busy_days_gold.known"].direct == ["users_silver.name"]


def busy_days(inputs: Inputs):
    """The test's transformation, in SQL with a CTE, an alias and a join."""
    return inputs.spark.sql(
        """
        WITH named AS (SELECT count(name) AS n FROM {users} WHERE NOT is_deleted)
        SELECT d.summary_date AS day, greatest(d.total_users, d.mau) AS users, named.n AS known
        FROM {days} d CROSS JOIN named WHERE d.total_events > 0
        """,
        users=inputs.all("users_silver"),
        days=inputs.all("daily_summary_gold"),
    )


# Events ----------------------------------------------------------------------


def fits(value: typing.Any, kind: typing.Any, names: dict[str, typing.Any], where: str) -> None:
    """Check JSON against the classes that OpenLineage generates from its JSON schemas: no additional field, no required
    field missing, and each of its type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        assert value is None or any(
            _does_fit(value, part, names, where) for part in arguments if part is not type(None)
        ), f"{where}: {value!r}"
    elif origin is list:
        assert isinstance(value, list), where
        for n, part in enumerate(value):
            fits(part, arguments[0], names, f"{where}[{n}]")
    elif origin is dict:
        assert isinstance(value, dict), where
        for key, part in value.items():
            inner = _facet(part) if where.endswith(("acets",)) else arguments[1]
            fits(part, inner, names, f"{where}.{key}")
    elif attr.has(kind):
        hints = typing.get_type_hints(
            kind, {**vars(typing), **names, **vars(__import__(kind.__module__, fromlist=["x"]))}
        )
        declared = {a.name: a for a in attr.fields(kind)}
        assert isinstance(value, dict) and value.keys() <= {*declared, "_producer", "_schemaURL"}, f"{where}: {value}"
        for name, field in declared.items():
            assert name in value or field.default is not attr.NOTHING or not field.init, f"{where}.{name} is missing"
            if name in value and not name.startswith("_"):
                fits(value[name], hints[name], names, f"{where}.{name}")
    elif isinstance(kind, type) and issubclass(kind, base.EventType):
        assert value in {part.value for part in kind}, where
    elif kind is not typing.Any:
        assert isinstance(value, kind), f"{where}: {value!r}"


def _does_fit(value, kind, names, where) -> bool:
    try:
        fits(value, kind, names, where)
    except AssertionError:
        return False
    return True


def _facet(value: dict) -> type:
    """Return the class of a facet, by the schema that it names."""
    name = value["_schemaURL"].rpartition("/")[2]
    modules = [
        getattr(facet_v2, module) for module in dir(facet_v2) if isinstance(getattr(facet_v2, module), types.ModuleType)
    ]
    (kind,) = {
        getattr(module, name)
        for module in modules
        if getattr(module, name, None) and getattr(module, name).__module__ == module.__name__
    }
    assert kind._get_schema() == value["_schemaURL"]
    return kind


def events_of(settings: Settings, run_id: str) -> list[dict]:
    lines = (settings.local_dir("runs", run_id) / "openlineage.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_events_conform_to_the_schemas_and_are_complete(lake):
    events = events_of(lake, "run1")
    names = vars(base)
    for run_event in events:
        fits(run_event, event_v2.RunEvent, names, run_event["job"]["name"])
        assert run_event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
        assert datetime.fromisoformat(run_event["eventTime"]).tzinfo and re.fullmatch(
            r"urn:[\w:.-]+", run_event["producer"]
        )
    states: dict[str, list[str]] = {}
    for run_event in events:
        states.setdefault(run_event["run"]["runId"], []).append(run_event["eventType"])
    assert set(map(tuple, states.values())) == {("START", "COMPLETE")}
    ended = {
        e["job"]["name"].split(".")[1]: e
        for e in events
        if e["eventType"] == "COMPLETE" and "checks" not in e["job"]["name"]
    }
    assert ended.keys() == tables.declared(lake).keys()
    for name, run_event in ended.items():
        table = tables.get(lake, name)
        (output,) = run_event["outputs"]
        assert output["name"] == delta.table_path(lake, table) and output["namespace"] == "file"
        facets = output["facets"]
        assert [f["name"] for f in facets["schema"]["fields"]] == table.names
        assert facets["ownership"]["owners"][0]["name"] == f"team:{table.owner}"
        assert facets["version"]["datasetVersion"] == str(DeltaTable(delta.table_path(lake, table)).version())
        lineage_fields = facets["columnLineage"]["fields"]
        for column, refs in by_hand().items():
            owner, _, path = column.partition(".")
            if owner == name and "." not in path:
                reported = {
                    (Path(f["name"]).name, f["field"])
                    for f in lineage_fields[path]["inputFields"]
                    if f["transformations"][0]["type"] == "DIRECT"
                }
                plain = {tuple(ref.split(".")[:2]) for ref in refs if not ref.endswith(".*")}
                assert reported == {(source.removesuffix("_quarantine"), field) for source, field in plain}
        assert len(run_event["inputs"]) == max(1, len(table.sources))
        for source in run_event["inputs"]:
            if table.sources:
                assert source["inputFacets"]["dataQualityAssertions"]["assertions"] and "version" in source["facets"]
    ledger = reader.query(lake, "SELECT target, sum(accepted + updated + quarantined)::INT AS n FROM ops_ledger "
                                "WHERE run_id = 'run1' GROUP BY target").set_index("target").n  # fmt: skip
    for name, run_event in ended.items():
        reported = run_event["outputs"][0]["outputFacets"]["outputStatistics"]
        assert reported["rowCount"] == ledger[name], name
        assert reported["size"] > 0 and reported["fileCount"] > 0


def test_events_reach_a_service_and_an_unreachable_one_fails_no_run(lakehouse, deliver, monkeypatch):
    received = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Print nothing on the terminal."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    deliver("app_events/1.json", [event(1)])
    settings = lakehouse(tables="app_events_bronze", openlineage_url=f"http://127.0.0.1:{server.server_port}")
    pipeline.run(settings, progress=lambda line: None).check()
    server.shutdown()
    server.server_close()
    assert [(path, auth) for path, auth, _ in received] == [("/api/v1/lineage", "Bearer secret")] * 4
    assert [item["eventType"] for *_, item in received] == ["START", "COMPLETE"] * 2
    deliver("app_events/2.json", [event(2)])
    pipeline.run(settings.model_copy(update={"run_id": "unheard"}), progress=lambda line: None).check()
    assert reader.count(settings, "app_events_bronze") == 2
    assert [e["eventType"] for e in events_of(settings, "unheard")] == ["START", "COMPLETE"] * 2  # kept in the file


def test_failed_table_is_reported_as_failed(lakehouse, deliver, monkeypatch):
    deliver("app_events/1.json", [event(1)])
    settings = lakehouse(tables="app_events_bronze,app_events_silver", run_id="bad")

    def broken(_):
        raise LakehouseError("the disk is full")

    monkeypatch.setattr("lakehouse_lib.layers.silver.app_events", broken)
    with pytest.raises(LakehouseError):
        pipeline.run(settings, progress=lambda line: None).check()
    reported = [
        (e["eventType"], e["run"]["facets"].get("errorMessage", {}).get("message"))
        for e in events_of(settings, "bad")
        if e["job"]["name"].endswith(".app_events_silver")
    ]
    assert reported == [("START", None), ("FAIL", "the disk is full")]


# Rows ------------------------------------------------------------------------

FOLLOWED = 200
PER_ROW = 3


def test_rows_are_traced_to_their_records(lake):
    """200 random rows of each silver and gold table: every row found on the way, and every record at
    the end, is checked against the files themselves."""
    lines, heads = {}, {}
    for feed in ("app_events", "clickstream", "cdc_changes"):
        for path in Path(lake.path("landing", feed)).rglob("*.*"):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            texts = data.decode(errors="replace").split("\n")
            name = f"landing/{feed}/{path.relative_to(lake.path('landing', feed))}"
            lines[name] = [text for text in texts if text.strip() and (".csv" not in name or text != texts[0])]
            if ".csv" in name:
                heads[name] = next(csv.reader(texts[:1]))
    reached: dict[str, int] = {}

    def down(table: Table, traced: pa.Table) -> None:
        if table.layer == "bronze":
            rows = traced.to_pylist()
            for row, ends in zip(rows, trace.records(lake, table, traced), strict=True):
                assert ends, f"{table.name}: no record for {row}"
                for end in ends:
                    assert end.path.endswith("/" + row["_source_file"])
                    assert lines[end.path][end.number - 1] == end.text
                    same_record(table, row, end.text, heads.get(end.path))
                reached[table.name] = reached.get(table.name, 0) + 1
            return
        for name, sources in trace.sources(lake, table, traced, PER_ROW).items():
            source = tables.get(lake, name)
            assert sources is not None
            counted(table, traced, name, sources)
            if sources.num_rows:
                distinct = {repr(row): row for row in sources.drop(["_of", "_total"]).to_pylist()}
                down(
                    source, pa.Table.from_pylist(list(distinct.values()), schema=sources.drop(["_of", "_total"]).schema)
                )

    picks = random.Random(7)
    for table in tables.declared(lake).values():
        if table.layer in ("silver", "gold"):
            connection = reader.connect()
            reader.register(connection, table.name, delta.dataset(DeltaTable(delta.table_path(lake, table))))
            actual = connection.sql(f"SELECT * FROM {table.name}").to_arrow_table()
            chosen = picks.sample(range(actual.num_rows), min(FOLLOWED, actual.num_rows))
            down(table, actual.take(chosen))
    assert min(reached.values()) >= FOLLOWED and reached.keys() == {
        "app_events_bronze",
        "clickstream_bronze",
        "cdc_changes_bronze",
    }


def counted(table: Table, traced: pa.Table, source: str, sources: pa.Table) -> None:
    """Assert that as many source rows are found as the row counts."""
    figure = {
        ("event_metrics_gold", "app_events_silver"): "total_events",
        ("hourly_metrics_gold", "app_events_silver"): "total_events",
        ("daily_summary_gold", "app_events_silver"): "total_events",
        ("daily_summary_gold", "clickstream_silver"): "total_sessions",
        ("users_silver", "app_events_silver"): "total_events",
        ("users_silver", "clickstream_silver"): "total_sessions",
    }.get((table.name, source))
    totals = {row["_of"]: row["_total"] for row in sources.select(["_of", "_total"]).to_pylist()}
    for place, row in enumerate(traced.to_pylist()):
        if figure:
            assert totals.get(place, 0) == row[figure], (table.name, source, row)
        if (table.name, source) == ("clickstream_silver", "clickstream_bronze"):
            assert totals[place] >= row["total_clicks"]
        if table.layer == "silver" and len(table.sources) == 1:
            assert place in totals, (table.name, row)


def same_record(table: Table, row: dict, text: str, head: list[str] | None) -> None:
    """Return whether the line has the values of the row, read here without the library."""
    if row["_raw"] is not None:
        assert text == row["_raw"]
        return
    record = json.loads(text) if head is None else dict(zip(head, next(csv.reader([text])), strict=True))
    if table.name == "cdc_changes_bronze":
        change = record.get("payload", record)
        assert change["source"]["table"] == row["table_name"]
        assert (None if change["after"] is None else change["after"]) == json.loads(row["after_values"] or "null")
        return
    name, at = table.names[0], table.event_time
    assert str(record[name]) == row[name] and (record.get("user_id") or None) == row["user_id"]
    value_of_time = next(record[key] for key in (at, "event_timestamp", "timestamp") if record.get(key))
    if not str(value_of_time).isdigit():
        moment = datetime.fromisoformat(value_of_time.replace("Z", "+00:00"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    else:
        moment = datetime.fromtimestamp(float(value_of_time) / (1000 if float(value_of_time) > 1e11 else 1), UTC)
    assert abs((moment.replace(tzinfo=None) - row[at]).total_seconds()) < 0.002


def test_trace_command_reports_what_is_missing(lake, capsys, monkeypatch):
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    (known,) = reader.query(
        lake, "SELECT user_id FROM users_silver WHERE is_known AND NOT is_deleted AND total_events > 3 LIMIT 1"
    ).user_id
    assert cli.main(["trace", "user_segments_gold", known]) == 0
    output = capsys.readouterr().out
    assert "landing/app_events/" in output and "landing/cdc_changes/" in output and " record " in output
    assert cli.main(["trace", "users_silver", "nobody"]) == 1
    assert "users_silver has no row with user_id=nobody" in capsys.readouterr().err
    assert cli.main(["trace", "event_metrics_gold", "2026-03-08"]) == 2
    assert "its key is metric_date metric_hour event_type app_type; 1 values" in capsys.readouterr().err
    assert cli.main(["trace", "daily_summary_gold", "some day"]) == 2
    with pytest.raises(ConfigError, match="has no column 'colour'"):
        trace.trace(lake, "users_silver", ["colour=red"])
    (reason,) = reader.query(lake, "SELECT record FROM app_events_bronze_quarantine LIMIT 1").record
    step = trace.trace(lake, "app_events_bronze_quarantine", [f"record={reason}"])
    assert step.sources[0].records[0].text == reason


def test_trace_reports_a_missing_file(lakehouse, deliver):
    path = deliver("app_events/1.json", [event(1), event(2)])
    settings = lakehouse(tables="app_events_bronze,app_events_silver")
    pipeline.run(settings, progress=lambda line: None).check()
    assert trace.trace(settings, "app_events_silver", ["e2"]).sources[0].records[0].number == 2
    path.unlink()
    assert "1.json no longer holds its record" in trace.trace(settings, "app_events_silver", ["e2"]).text()
    with pytest.raises(TableError, match="daily_summary_gold has not been made yet"):
        trace.trace(settings, "daily_summary_gold", ["2026-03-02"])


# Values ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [table.name for table in tables.declared(Settings()).values()])
def test_reader_returns_the_same_as_spark(lake, engine_session, name):
    """Every value of every column."""
    table = tables.get(lake, name)
    expected = delta.read(engine_session, lake, table).toArrow()
    actual = reader.query(lake, f"SELECT * FROM {name}")
    assert list(actual) == expected.schema.names and len(actual) == expected.num_rows > 0
    connection = reader.connect()
    reader.register(connection, "theirs", pa.dataset.dataset(expected))
    reader.register(connection, "ours", delta.dataset(DeltaTable(delta.table_path(lake, table))))
    for minuend, subtrahend in (("ours", "theirs"), ("theirs", "ours")):
        left = connection.sql(f"SELECT * FROM {minuend} EXCEPT ALL SELECT * FROM {subtrahend}").fetchall()
        assert not left, left[:2]
    shown = connection.sql("SELECT * FROM theirs").df()
    for column in actual:
        assert sorted(map(repr, actual[column])) == sorted(map(repr, shown[column])), column
