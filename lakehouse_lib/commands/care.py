"""Commands that look after the tables: health, quality, quarantine, restore and maintenance."""

from __future__ import annotations

import argparse
from typing import Any

from lakehouse_lib.commands.shared import chosen_tables, load_settings, owned_engine
from lakehouse_lib.errors import ConfigError, NotMadeError, QualityError

_NOT_DONE = "Nothing was done; add --yes to do it."


def show_health(_: argparse.Namespace) -> int:
    from lakehouse_lib.care import health

    report = health.report(load_settings())
    print(report.text())
    return QualityError.exit_status if report.verdict == "Degraded" else 0


def check_quality(options: argparse.Namespace) -> int:
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import delta
    from lakehouse_lib.trust import quality

    settings = load_settings()
    chosen = [tables.get(settings, options.table)] if options.table else list(tables.declared(settings).values())
    existing = [table for table in chosen if delta.exists(settings, table)]
    if options.table and not existing:
        raise NotMadeError(f"{options.table} has not been made yet: there is nothing to check.")
    if options.action in ("profile", "anomalies"):
        from lakehouse_lib.trust import anomalies, profiles

        for table in existing:
            print((profiles if options.action == "profile" else anomalies).text(settings, table))
        if not existing:
            print("No table has been made yet.")
        return 0
    latest = quality.latest(settings)
    if options.action == "check":
        for table in existing:
            latest[table.name] = quality.check(settings, table)
    results = [result for table in existing for result in latest.get(table.name, {}).values()]
    for result in results:
        print(f"{result.severity.upper() if result.failed else result.verdict:<11} {result.message}")
    if failing := quality.stopping(results):
        raise QualityError(f"{len(failing)} of {len(results)} checks fail; tables made from theirs are not updated.")
    judged = [result for result in results if result.passed is not None]
    skipped = f"; {len(results) - len(judged)} had no rows to look at" if len(judged) < len(results) else ""
    print(f"{sum(bool(result.passed) for result in judged)} of {len(judged)} checks pass{skipped}.")
    return 0


def handle_quarantine(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import quarantine

    settings = load_settings()
    if options.action == "show":
        groups = quarantine.summary(settings, options.table, options.reason)
        row: Any
        for row in groups.itertuples():
            print(f"{row.table_name:<22} {row.records:>9,}  {row.flags}: {row.reason}\n{'':34}{row.example[:120]}")
        if groups.empty:
            print(
                f"The quarantine has no records{f' of {options.table}' if options.table else ''}"
                f"{f' with the reason {options.reason}' if options.reason else ''}."
            )
        return 0
    if options.action == "apply":
        with owned_engine(settings):
            quarantine.apply(settings, options.table, options.check)
        return 0
    if not options.table:
        raise ConfigError("Say which table: lakehouse quarantine replay app_events_bronze")
    with owned_engine(settings):
        quarantine.replay(settings, options.table, options.reason)
    return 0


def restore_version(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import restore
    from lakehouse_lib.catalog import history
    from lakehouse_lib.model import tables

    settings = load_settings()
    table = tables.get(settings, options.table)
    current = history.opened(settings, table).version()
    print(history.diff(settings, table, current, options.version))
    for consequence in restore.consequences(settings, table, options.version):
        print(consequence)
    if not options.yes:
        print(_NOT_DONE)
        return 0
    new_version = restore.restore(settings, table, options.version)
    print(
        f"{table.name} is now version {new_version}, with the rows of version {options.version}. "
        "Run `lakehouse run` to update the tables that are made from it."
    )
    return 0


def optimize_tables(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked
    from lakehouse_lib.model import tables

    settings = load_settings()
    with locked(settings):
        if options.table:
            table = tables.get(settings, options.table)
            print(maintenance.optimize(settings, table, everything=True))
            print(maintenance.clean_log(settings, table))
            return 0
        due = [work for work in maintenance.due(settings) if work.kind in ("compact", "checkpoint")]
        for work in due:
            print(f"{work.table}: {work.why}")
            print(f"    {maintenance.do(settings, work)}")
    if not due:
        print("Nothing to do: no partition has many small files, and no log is long.")
    return 0


def vacuum_tables(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked

    settings = load_settings()
    default_hours = maintenance.kept_hours(settings)
    hours = default_hours if options.hours is None else options.hours
    print(
        f"Files are kept {hours} hours after the last version that needs them (time travel "
        f"{settings.time_travel_retention_days} days, vacuum {settings.vacuum_retention_days} days: the longer counts)."
    )
    with locked(settings):
        for table in chosen_tables(settings, options.table):
            if options.yes:
                print(maintenance.vacuum(settings, table, options.hours, options.force))
                continue
            files, size = maintenance.removable(settings, table, options.hours)
            print(f"{table.name}: {len(files)} files, {size:,} bytes would be freed")
            if options.hours is not None and options.hours < default_hours:
                lost = maintenance.unreadable(settings, table, options.hours)
                print(f"    versions that could no longer be read: {', '.join(map(str, lost)) or 'none'}")
    if not options.yes:
        print(_NOT_DONE)
    return 0


def apply_retention(options: argparse.Namespace) -> int:
    from lakehouse_lib.care import maintenance
    from lakehouse_lib.flow.lock import locked

    settings = load_settings()
    with locked(settings):
        for table in chosen_tables(settings, options.table):
            if options.yes:
                print(maintenance.retention(settings, table))
                continue
            due = maintenance.to_archive(settings, table)
            for work in due:
                print(f"{table.name}: {work.why} ({work.bytes:,} bytes)")
            if not due:
                print(f"{table.name}: nothing is past its retention")
    if not options.yes:
        print(_NOT_DONE)
    return 0


def handle_archive(options: argparse.Namespace) -> int:
    from lakehouse_lib.flow import bookkeeping
    from lakehouse_lib.flow.lock import locked
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import archive

    settings = load_settings()
    if options.action == "restore":
        if not options.table:
            raise ConfigError("Say which table: lakehouse archive restore app_events_bronze")
        table = tables.get(settings, options.table)
        with locked(settings):
            batches = archive.restore(settings, table)
            bookkeeping.account(settings, table)
        print(f"{table.name}: {sum(batch.rows for batch in batches):,} rows of {len(batches)} batches were restored.")
        return 0
    batches = [batch for table in chosen_tables(settings, options.table) for batch in archive.batches(settings, table)]
    for batch in batches:
        print(
            f"{batch.table:<32} batch {batch.number}: {batch.rows:>9,} rows, {batch.days[0]} to {batch.days[-1]}, "
            f"archived {batch.archived_at}"
        )
    if not batches:
        print("The archive has no rows.")
    return 0
