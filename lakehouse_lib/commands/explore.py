"""Commands that show the tables: the catalog, lineage, single rows and versions."""

from __future__ import annotations

import argparse
import json

from lakehouse_lib.commands.shared import load_settings


def list_tables(_: argparse.Namespace) -> int:
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import reader

    settings = load_settings()
    for table in tables.declared(settings).values():
        print(f"{table.layer:<11} {table.name:<32} {reader.count(settings, table.name):>12,}  {table.description}")
    return 0


def describe_table(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lakehouse_lib.catalog import catalog

    settings = load_settings()
    if options.owner or options.tag or options.untag:
        entry = catalog.edit(settings, options.table, options.owner, options.tag, options.untag)
    else:
        entry = catalog.describe(settings, options.table)
    for name, value in asdict(entry).items():
        if name == "made_with":
            told = json.loads(value)
            value = [f"{path} = {setting}" for path, setting in told["settings"].items()] + [f"code {told['code']}"]
        if name != "columns":
            print(f"{name.replace('_', ' '):<16} {', '.join(value) if isinstance(value, list) else value}")
    for column in json.loads(entry.columns):
        required = "required" if column["required"] else ""
        print(f"    {column['name']:<26} {column['type'][:40]:<14} {required:<9} {column['comment']}")
    return 0


def search_tables(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import catalog

    entries = catalog.search(load_settings(), " ".join(options.words))
    print(catalog.overview(entries).to_string(index=False) if entries else "No table holds all of these words.")
    return 0


def show_lineage(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import lineage, rules

    settings = load_settings()
    is_column = "." in options.table
    upstream, downstream = (
        (lineage.column_upstream, lineage.column_downstream) if is_column else (lineage.upstream, lineage.downstream)
    )
    if options.up or not options.down:
        print("Made from:\n" + lineage.tree(upstream(settings, options.table), options.table, 1))
        for name, made in rules.of_all(settings, upstream(settings, options.table)).items():
            print(f"{name}: fingerprint {made.fingerprint or 'not recorded'}"
                  + (f" since {made.since:%Y-%m-%d %H:%M} UTC, {made.state}" if made.since else ""))  # fmt: skip
        if is_column and (deciding := lineage.columns(settings).get(options.table, lineage.Made()).indirect):
            print(f"Its value is selected by {', '.join(deciding)}")
    if options.down or not options.up:
        print("Made from it:\n" + lineage.tree(downstream(settings, options.table), options.table, 1))
    return 0


def trace_row(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import trace

    print(trace.trace(load_settings(), options.table, options.key, options.limit).text())
    return 0


def show_history(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = load_settings()
    table = tables.get(settings, options.table)
    history.opened(settings, table)  # raises an error if the table does not exist yet
    print(history.versions(settings, table).to_string(index=False))
    return 0


def compare_versions(options: argparse.Namespace) -> int:
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = load_settings()
    table = tables.get(settings, options.table)
    difference = history.diff(settings, table, options.from_version, options.to_version)
    print(difference)
    if len(difference.examples):
        print(difference.examples.to_string(index=False, max_colwidth=40))
    return 0
