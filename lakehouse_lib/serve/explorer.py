"""The catalog explorer: widgets to browse tables, and a static page where widgets are not available.

Every read goes through `reader`, `history` and the Delta logs; no engine is started. In exports
and wherever widgets do not work, the same object is displayed as plain HTML.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any, cast

import ipywidgets as widgets
import pandas as pd

from lakehouse_lib.catalog import catalog, history, lineage
from lakehouse_lib.catalog.catalog import Entry
from lakehouse_lib.config import Settings
from lakehouse_lib.model import tables
from lakehouse_lib.serve import browse, plots
from lakehouse_lib.storage import reader
from lakehouse_lib.trust import profiles, quality

if TYPE_CHECKING:
    from IPython.display import HTML

PAGE = 20
SHOWN = 60
"""Maximum number of characters shown of a value."""


class Explorer:
    """An interactive catalog; displayed as the last expression of a cell, or with ``display``."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.entries = catalog.entries(settings)
        self.made = lineage.columns(settings)
        self.layer = widgets.ToggleButtons(
            options=["all", *tables.LAYERS], value="all", tooltip="layer", style={"button_width": "auto"}
        )
        self.search = widgets.Text(placeholder="name, column, tag:…, owner:…, any word", description="Search",
                                   continuous_update=True, layout={"width": "420px"})  # fmt: skip
        self.names = widgets.Select(rows=16, layout={"width": "270px"}, description="", tooltip="Tables")
        self.title, self.schema, self.state, self.graph = (widgets.HTML() for _ in range(4))
        self.sample, self.notice, self.versions, self.code = (widgets.HTML() for _ in range(4))
        self.version = widgets.SelectionSlider(options=[("–", -1)], description="Version", continuous_update=False,
                                               readout=False, layout={"width": "420px"})  # fmt: skip
        self.told = widgets.HTML()
        self.order = widgets.Dropdown(options=["as stored"], description="Sort by")
        self.descending = widgets.Checkbox(value=False, description="descending", indent=False)
        self.back = widgets.Button(description="◀ Previous page", tooltip="Previous page")
        self.forward = widgets.Button(description="Next page ▶", tooltip="Next page")
        self.column = widgets.Dropdown(description="Column")
        self.figure, self.profile = widgets.HTML(), widgets.HTML()
        self.dialect = widgets.ToggleButtons(options=["PySpark", "SQL", "Command"], style={"button_width": "auto"})
        self.text = widgets.Textarea(rows=4, layout={"width": "760px"}, description="Code")
        self.tabs = widgets.Tab(children=[
            self.schema,
            widgets.VBox([widgets.HBox([self.version, self.told]), widgets.HBox([self.order, self.descending]),
                          widgets.HBox([self.back, self.forward]), self.notice, self.sample]),
            widgets.VBox([self.column, self.figure, self.profile]),
            self.state, self.graph, self.versions,
            widgets.VBox([self.dialect, self.text]),
        ], titles=["Schema", "Sample", "Statistics", "Quality", "Lineage", "History", "Code"])  # fmt: skip
        self.widget = widgets.VBox([
            widgets.HBox([self.layer, self.search]),
            widgets.HBox([self.names, widgets.VBox([self.title, self.tabs], layout={"flex": "1", "min_width": "0"})]),
        ])  # fmt: skip
        self.offset = 0
        self._drawn: set[tuple[str, int]] = set()
        self._log: pd.DataFrame | None = None
        self._listen()
        self._list()

    def _listen(self) -> None:
        self.layer.observe(lambda _: self._list(), "value")
        self.search.observe(lambda _: self._list(), "value")
        self.names.observe(lambda _: self._open(), "value")
        self.tabs.observe(lambda _: self._tab(), "selected_index")
        for control in (self.version, self.order, self.descending):
            control.observe(lambda _: self._turn(-self.offset), "value")
        self.back.on_click(lambda _: self._turn(-PAGE))
        self.forward.on_click(lambda _: self._turn(PAGE))
        self.column.observe(lambda _: self._statistics(), "value")
        self.dialect.observe(lambda _: self._code(), "value")

    @property
    def entry(self) -> Entry:
        """The table on display."""
        return self.entries[self.names.value]

    def _list(self) -> None:
        matches = catalog.matching(self.entries, self.search.value)
        names = [entry.name for entry in matches if self.layer.value in ("all", entry.layer)]
        selected = self.names.value if self.names.value in names else next(iter(names), None)
        self.names.options, self.names.value = names, selected
        if selected is None:
            self.title.value = "<p>No table holds all of these words.</p>"

    def _open(self) -> None:
        if self.names.value is None:
            return
        entry = self.entry
        self.offset, self._drawn, self._log = 0, set(), None
        self.title.value = _title(entry)
        self.schema.value = schema(entry, self.made)
        self.order.options, self.order.value = ["as stored", *_columns(entry)], "as stored"
        informative = [name for name in _columns(entry) if name not in entry.key and not name.endswith("_id")]
        self.column.options, self.column.value = _columns(entry), informative[0]
        self.version.options = [("–", -1)]
        self._tab()

    def _tab(self) -> None:
        """Draw the selected tab, once per table."""
        number = self.tabs.selected_index or 0
        if self.names.value is None or (self.names.value, number) in self._drawn:
            return
        self._drawn.add((self.names.value, number))
        if self.entry.version < 0:
            self.notice.value = "<p>Not made yet: run the layers first.</p>"
            return
        if number == 1:
            self.version.options = [
                (_version_label(row), int(cast("int", row.version)))
                for row in self._versions().sort_values("version").itertuples()
            ]
            self.version.value = self.entry.version
            self._turn(0)
        elif number == 2:
            self._statistics()
        elif number == 3:
            self.state.value = checks(self.settings, self.entry).data
        elif number == 4:
            self.graph.value = lineage.picture(self.settings, self.entry.name)
        elif number == 5:
            self.versions.value = browse.table(self._versions()).data
        elif number == 6:
            self._code()

    def _versions(self) -> pd.DataFrame:
        """The versions of the open table; its log is read once per table, not once per page."""
        if self._log is None:
            self._log = history.versions(self.settings, tables.get(self.settings, self.entry.name))
        return self._log

    def _turn(self, step: int) -> None:
        """Show another page; DuckDB sorts and limits, so only one page reaches the browser."""
        if self.version.value < 0:
            return
        self.offset = max(0, self.offset + step)
        order = "" if self.order.value == "as stored" else self.order.value
        rows = reader.page(
            self.settings, self.entry.name, self.version.value, order, self.descending.value, self.offset, PAGE
        )
        version: Any = next(row for row in self._versions().itertuples() if row.version == self.version.value)
        total = version.rows
        self.told.value = f"{_version_label(version)} ({version.at:%Y-%m-%d %H:%M} UTC)"
        self.back.disabled, self.forward.disabled = self.offset == 0, self.offset + PAGE >= total
        self.notice.value = (
            f"<p>Rows {min(self.offset + 1, total):,} to {min(self.offset + len(rows), total):,} of "
            f"{total:,}; values are cut after {SHOWN} characters.</p>"
        )
        self.sample.value = browse.table(shortened(rows), "No rows.").data

    def _statistics(self) -> None:
        if self.column.value is None or self.entry.version < 0 or self.tabs.selected_index != 2:
            return
        table = tables.get(self.settings, self.entry.name)
        distribution = reader.distribution(self.settings, table.name, self.column.value)
        distribution["value"] = distribution["value"].map(
            lambda v: f"{v:,.6g}" if isinstance(v, float) else str(v)[:SHOWN]
        )
        title = f"Rows of {table.name} by {self.column.value}"
        self.figure.value = (
            plots.bars(distribution, "value", "rows", title, "rows").data if len(distribution) else "<p>No values.</p>"
        )
        self.profile.value = browse.table(
            profiles.frame(profiles.profile(self.settings, table, [self.column.value]))
        ).data

    def _code(self) -> None:
        entry, version = self.entry, self.version.value
        as_of = "" if version in (-1, entry.version) else f" VERSION AS OF {version}"
        option = f'.option("versionAsOf", {version})' if as_of else ""
        self.text.value = {
            "PySpark": f'spark.read.format("delta"){option}.load("{entry.path}").limit({PAGE}).toPandas()',
            "SQL": f"SELECT * FROM delta.`{entry.path}`{as_of} LIMIT {PAGE}",
            "Command": f"lakehouse describe {entry.name}",
        }[self.dialect.value]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs) or {}
        return bundle | {"text/html": static(self.settings, list(self.entries.values()), self.made)}


def static(settings: Settings, entries: list[Entry], origins: dict[str, lineage.Made]) -> str:
    """The whole catalog as self-contained HTML: each table with all its tabs."""
    parts = [browse.table(catalog.overview(entries)).data]
    for entry in entries:
        table = tables.get(settings, entry.name)
        body = [_title(entry), schema(entry, origins)]
        if entry.version >= 0:
            rows = shortened(reader.page(settings, entry.name, limit=5))
            body += ["<h4>Sample</h4>", browse.table(rows, "No rows.").data, "<h4>Quality</h4>",
                     checks(settings, entry).data, "<h4>History</h4>",
                     browse.table(history.versions(settings, table).head(5)).data]  # fmt: skip
        body += ["<h4>Lineage</h4>", lineage.picture(settings, entry.name)]
        parts.append(
            f"<details><summary><b>{entry.name}</b> · {html.escape(entry.description)}</summary>"
            f"{''.join(body)}</details>"
        )
    return "".join(parts)


def schema(entry: Entry, origins: dict[str, lineage.Made]) -> str:
    """The columns with their types, comments, and the columns they are derived from."""
    columns = pd.DataFrame(json.loads(entry.columns))
    column_origins = [origins.get(f"{entry.name}.{name}", lineage.Made()) for name in columns["name"]]
    columns["made from"] = [
        ", ".join(origin.direct) or ("chosen by " + ", ".join(origin.indirect) if origin.indirect else "")
        for origin in column_origins
    ]
    rendered: str = browse.table(columns).data
    return rendered


def checks(settings: Settings, entry: Entry) -> HTML:
    """The latest results of the table's checks."""
    results = quality.latest(settings).get(entry.name, {}).values()
    rows = [
        (result.verdict, result.check_name, result.message.split(": ", 2)[-1], result.expected) for result in results
    ]
    return browse.table(pd.DataFrame(rows, columns=["verdict", "check", "found", "expected"]), "Not checked yet.")


def shortened(rows: pd.DataFrame) -> pd.DataFrame:
    """Values cut to fit a cell."""

    def cut(value: Any) -> Any:
        text = str(value)
        return text[: SHOWN - 1] + "…" if len(text) > SHOWN else value

    return rows.map(cut)


def _title(entry: Entry) -> str:
    updated = f", {entry.state}, last written {entry.updated_at:%Y-%m-%d %H:%M} UTC" if entry.updated_at else ""
    size = f"{entry.rows:,} rows in {entry.files:,} files, {entry.bytes / 1e6:,.2f} MB, version {entry.version}"
    return (
        f'<h3>{entry.name}</h3><p style="line-height:1.5">{html.escape(entry.description)}. '
        f"Grain: {html.escape(entry.grain)}."
        f"<br>{entry.layer} · {size}{updated}<br>owner {html.escape(entry.owner)} · "
        f"tags {html.escape(', '.join(entry.tags))} · made by <code>{entry.made_by}</code>"
        + (f", rules {html.escape(entry.rules)}, since {entry.rules_since:%Y-%m-%d}" if entry.rules_since else "")
        + "</p>"
    )


def _columns(entry: Entry) -> list[str]:
    return [column["name"] for column in json.loads(entry.columns)]


def _version_label(row: Any) -> str:
    return f"{row.version}: {row.operation.lower()}, {row.change:+,} rows"
