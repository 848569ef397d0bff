"""Catalog, lineage and explorer match the tables, without an engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import change, click, event
from deltalake import DeltaTable
from lake import rows

from lakehouse_lib import config, notebooks
from lakehouse_lib.catalog import catalog, history, lineage
from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.serve import explorer
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality


@pytest.fixture(scope="module")
def lake(engine, tmp_path_factory) -> Settings:
    """Two runs over all feeds."""
    base = tmp_path_factory.mktemp("catalog")
    settings = config.load({"lakehouse_base_path": str(base), "spark_master": engine, "sample": {"rows": 0}})
    for number in (1, 2):
        at = f"2026-03-0{number}T10:00:00Z"
        events = [event(100 * number + n, at, user_id=f"user {n}", properties={"value": n}) for n in range(45)]
        for feed, records in (
            ("app_events", events),
            ("clickstream", [click(number, at)]),
            ("cdc_changes", [change("c", number, None, {"user_id": f"user {number}"})]),
        ):
            path = base / f"landing/{feed}/{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        pipeline.run(settings, progress=lambda line: None).check()
    return settings


@pytest.fixture(autouse=True)
def no_engine(monkeypatch, lake):
    """Fail if anything starts Spark after the lakehouse is built."""

    def never(*_):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "connect", never)


def test_catalog_matches_the_tables_after_a_run(lake):
    stored = reader.query(lake, "SELECT * FROM ops_catalog").set_index("name")
    assert set(stored.index) == set(tables.declared(lake))
    for name, entry in catalog.entries(lake).items():
        delta_table = DeltaTable(delta.table_path(lake, tables.get(lake, name)))
        assert (entry.version, entry.rows, entry.files) == (
            delta_table.version(),
            delta_table.count(),
            len(delta_table.file_uris()),
        )
        assert stored.loc[name, "version"] == delta_table.version() and stored.loc[name, "rows"] == delta_table.count()
        assert entry.columns == stored.loc[name, "columns"] and entry.verdict in ("ok", "warn")
        assert [column["name"] for column in json.loads(entry.columns)] == [f.name for f in delta_table.schema().fields]
        assert reader.query(lake, entry.sample_query) is not None
    assert catalog.describe(lake, "users_silver").consumers == ["user_segments_gold"]
    assert catalog.describe(lake, "app_events_bronze").sources == ["landing/app_events"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("user_segments", ["user_segments_gold"]),
        ("tag:pii", ["users_history_silver", "users_silver"]),
        ("layer:gold bounce_rate", ["daily_summary_gold"]),
        ("slowly changing", ["users_history_silver"]),
        ("p95", ["hourly_metrics_gold"]),
        ("no such thing", []),
    ],
)
def test_search_matches_name_column_tag_and_text(lake, words, names):
    assert [entry.name for entry in catalog.search(lake, words)] == names


def test_changed_owner_and_tags_survive_runs(lake):
    changed = catalog.edit(lake, "daily_summary_gold", "finance", ["monthly"], ["kpi"])
    assert (changed.owner, changed.tags) == ("finance", ["monthly"])
    pipeline.run(lake, progress=lambda line: None).check()
    assert catalog.describe(lake, "daily_summary_gold").owner == "finance"
    stored = reader.query(lake, "SELECT owner FROM ops_catalog WHERE name = 'daily_summary_gold'")
    assert stored.owner[0] == "finance"
    with pytest.raises(ConfigError, match="tag 'a b': letters, digits"):
        catalog.edit(lake, "daily_summary_gold", add=["a b"])
    with pytest.raises(ConfigError, match="did you mean daily_summary_gold"):
        catalog.edit(lake, "dayly_summary_gold", "x")


def test_lineage_reaches_landing_and_gold(lake):
    up = lineage.upstream(lake, "user_segments_gold")
    assert up["user_segments_gold"] == ["users_silver", "app_events_silver"]
    assert {"landing/app_events", "landing/clickstream", "landing/cdc_changes"} <= set(up)
    down = lineage.downstream(lake, "clickstream_bronze")
    assert set(down) == {"clickstream_bronze", "clickstream_silver", "clickstream_bronze_quarantine", "users_silver",
                         "hourly_metrics_gold", "daily_summary_gold", "user_segments_gold"}  # fmt: skip
    text = lineage.tree(up, "user_segments_gold")
    assert text.splitlines()[:3] == ["user_segments_gold", "    users_silver", "        users_history_silver"]
    drawn = lineage.picture(lake, "users_silver")
    assert drawn.count("<rect") == len(
        {*lineage.upstream(lake, "users_silver"), *lineage.downstream(lake, "users_silver")}
    )
    assert "users_silver is made from users_history_silver" in drawn


@pytest.mark.parametrize("name", [table.name for table in tables.declared(Settings()).values()])
def test_reader_pages_contain_every_row_once(lake, name):
    """All pages, in the order of any column, hold each row once."""
    expected = rows(lake, name)
    table = tables.get(lake, name)
    seen = []
    for offset in range(0, len(expected), 20):
        seen += reader.page(lake, name, order_by=table.business[0], offset=offset).to_dict("records")
    assert len(seen) == len(expected)
    first = reader.page(lake, name, limit=3)
    assert list(first) == [field.name for field in DeltaTable(delta.table_path(lake, table)).schema().fields]
    for column in table.business:
        shown = reader.distribution(lake, name, column)
        assert shown.rows.sum() <= len(expected)
    with pytest.raises(ConfigError, match="has no column 'nothing'"):
        reader.page(lake, name, order_by="nothing")


def test_distribution_is_empty_if_the_table_does_not_exist(lakehouse):
    assert reader.distribution(lakehouse(), "users_silver", "total_events").empty


def test_explorer_searches_opens_pages_sorts_and_shows_versions(lake):
    seen = explorer.Explorer(lake)
    seen.search.value = "app_events_silver"
    seen.names.value = "app_events_silver"
    assert "90 rows" in seen.title.value and "Grain: an event" in seen.title.value
    assert "id given by the producer" in seen.schema.value
    seen.tabs.selected_index = 1
    assert "Rows 1 to 20 of 90" in seen.notice.value and seen.back.disabled
    seen.forward.click()
    assert "Rows 21 to 40 of 90" in seen.notice.value
    seen.order.value, seen.descending.value = "event_value", True
    assert "Rows 1 to 20 of 90" in seen.notice.value and ">44<" in seen.sample.value
    first = history.versions(lake, tables.get(lake, "app_events_silver")).version.min() + 1
    seen.version.value = int(first)
    assert "of 45" in seen.notice.value
    seen.tabs.selected_index = 6
    assert 'option("versionAsOf"' in seen.text.value
    seen.dialect.value = "SQL"
    assert f"VERSION AS OF {first}" in seen.text.value
    for index, words in (
        (2, "Rows of app_events_silver by event_type"),
        (3, "key_is_unique"),
        (4, "<svg"),
        (5, "WRITE"),
    ):
        seen.tabs.selected_index = index
        drawn = {2: seen.figure, 3: seen.state, 4: seen.graph, 5: seen.versions}[index].value
        assert words in drawn
    seen.layer.value, seen.search.value = "gold", ""
    assert all(name.endswith("_gold") for name in seen.names.options) and len(seen.names.options) == 4
    seen.search.value = "no such thing at all"
    assert seen.names.options == () and "No table holds" in seen.title.value


def test_static_page_contains_everything_and_makes_no_request(lake):
    page = explorer.Explorer(lake)._repr_mimebundle_()["text/html"]
    for name in tables.declared(lake):
        assert f"<b>{name}</b>" in page
    assert page.count("<svg") == len(tables.declared(lake)) and page.count("<h4>History</h4>") == 14
    assert not re.search(r"(src|href)=.?(https?:)?//", page)


@pytest.fixture(scope="module")
def lab(lake, tmp_path_factory):
    """JupyterLab on a copy of the notebooks, with the lakehouse of this module; its address."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "parameters"):
        shutil.copytree(name, folder / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
               "--IdentityProvider.token=t", f"--ServerApp.root_dir={folder / 'notebooks'}"]  # fmt: skip
    environment = os.environ | {
        "LAKEHOUSE_BASE_PATH": lake.path(),
        "PYTHONPATH": os.getcwd(),
        "SPARK_MASTER": "sc://localhost:1",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=t"):
            break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/lab/tree/50_catalog_explorer.ipynb?token=t&reset"
    process.terminate()
    process.wait()


@pytest.mark.parametrize("width", [1400, 390])
def test_exported_page_works_offline(lake, browser, tmp_path, monkeypatch, width):
    """As opened from a mail: no widget runs, and no request is made."""
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    executed = notebooks.execute(lake, "50_catalog_explorer", f"export{width}", latest=False)
    asked = []
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(executed.with_suffix(".html").as_uri())
    for name in tables.declared(lake):
        page.locator("summary", has_text=name).first.click()
        page.get_by_role("img", name=f"{name} is made from").first.wait_for()
    shown = page.inner_text("body")
    assert "id given by the producer" in shown and "key_is_unique" in shown
    assert "made from" in shown and "app_events_bronze.event_properties" in shown
    assert page.evaluate("document.documentElement.scrollWidth") <= width + 1
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"catalog-{width}.png", full_page=True)
    context.close()


def test_explorer_works_in_jupyterlab(lab, browser, lake, tmp_path, engine_session):
    """Search, open, page, select a version and copy code as a user does; then run the code."""
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.goto(lab)
    page.get_by_role("heading", name="Catalog explorer").wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    search = page.get_by_label("Search", exact=True)
    search.wait_for(timeout=60_000)
    search.fill("cleaned events")
    page.get_by_role("heading", name="app_events_silver").wait_for(timeout=20_000)
    page.get_by_role("tab", name="Sample").click()
    page.get_by_text("Rows 1 to 20 of 90").wait_for()
    page.get_by_role("button", name="Next page").click()
    page.get_by_text("Rows 21 to 40 of 90").wait_for()
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowLeft")  # by keyboard alone, to the version before
    page.get_by_text("of 45;").wait_for()
    page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / "explorer.png")
    page.get_by_role("tab", name="Lineage").click()
    page.get_by_role("img", name="app_events_silver is made from app_events_bronze").first.wait_for()
    page.get_by_role("tab", name="Code", exact=True).click()
    page.get_by_role("button", name="SQL").click()
    code = page.get_by_role("textbox", name="Code")
    expected = f"SELECT * FROM delta.`{delta.table_path(lake, tables.get(lake, 'app_events_silver'))}` VERSION AS OF"
    expect(code).to_have_value(re.compile(re.escape(expected)))
    assert engine_session.sql(code.input_value()).count() == 20
    assert page.get_by_text("14 tables have been made, and the catalog knows each.").count() == 1
    page.close()


def test_threads_can_read_concurrently(lake):
    """Each thread has its own connection: DuckDB's shared connection rejects a second caller."""
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(reader.page, lake, name) for name in tables.declared(lake) for _ in range(6)]
        asked += [pool.submit(quality.latest, lake) for _ in range(60)]
        assert all(future.result() is not None for future in asked)
