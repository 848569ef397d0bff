"""Commands that prepare, run and serve the lakehouse."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from lakehouse_lib import config
from lakehouse_lib.commands.shared import load_settings, owned_engine
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError, LockedError, SetupError

PLANNED = 4
"""Exit status of a plan with something to do."""


def set_up(options: argparse.Namespace) -> int:
    from lakehouse_lib.engines import toolchain

    if not options.spark:
        print(f"Engine: Sail {toolchain.native_version()}. For Spark on this machine: lakehouse setup --spark")
        return 0
    try:
        java = toolchain.find_java()
    except SetupError as error:
        print(f"{error}\nInstalling one from PyPI …")
        toolchain.install_java()
        java = toolchain.find_java()
    print(f"Java: {java}\nDelta: {toolchain.delta_jars()[0].parent}")
    return 0


def show_plan(options: argparse.Namespace) -> int:
    from lakehouse_lib.flow import plan

    if not options.preview and (options.days or options.apply):
        raise ConfigError("--days and --apply belong to a preview: lakehouse plan --preview TABLE")
    if options.days and options.apply:
        raise ConfigError("--apply puts a whole table in place, and --days shows only its last days: leave one out")
    settings = load_settings()
    if options.preview:
        return _preview(settings, options)
    found = plan.plan(settings)
    print(_json(found.as_json()) if options.json else found.text())
    return PLANNED if found.affected else 0


def _preview(settings: Settings, options: argparse.Namespace) -> int:
    from lakehouse_lib.flow import preview

    with owned_engine(settings):
        found = preview.preview(settings, [options.preview], options.days)
        print(_json(found.as_json()) if options.json else found.text())
        if not options.apply:
            return PLANNED if found.differs else 0
        preview.apply(settings, [options.preview], lambda line: print(line, file=sys.stderr if options.json else None))
    if options.assignments:
        print(f"Keep {', '.join(options.assignments)} in a parameters file: a run without it would rebuild the table "
              "by the earlier value.", file=sys.stderr)  # fmt: skip
    return 0


def _json(found: dict[str, Any]) -> str:
    import json

    return json.dumps(found, ensure_ascii=False, indent=2, default=str)


def _has_new_folders(settings: Settings) -> bool:
    """Whether a folder of landing has changed since notebooks were last executed. This is only a guess at whether
    they will be."""
    landing, base = settings.layer_path("landing"), settings.path()
    if "://" in landing + base:
        return False
    latest = Path(base, "runs", "latest")
    last = latest.lstat().st_mtime if latest.is_symlink() else 0.0
    return any(os.stat(folder).st_mtime > last for folder, _, _ in os.walk(landing))


def run_layers(options: argparse.Namespace) -> int:
    settings = load_settings(notify=options.notify)
    if options.sample or _has_new_folders(settings):
        from lakehouse_lib import kernels

        kernels.prepare()  # while this process imports what a run needs
    from lakehouse_lib import run
    from lakehouse_lib.care import health

    if options.forward_only:
        from lakehouse_lib.flow import plan

        for sentence in plan.forward_only(settings, options.forward_only):
            print(sentence)
    for name in ("date_from", "date_to"):
        if day := getattr(settings, name):  # so that `yesterday` stays the same day when the run passes midnight
            os.environ[config.variable(name)] = day.isoformat()
    run_id = settings.run_id or config.new_run_id()
    verdict_before = health.last_verdict(settings) if settings.notify else ""
    failure: LakehouseError | None = None
    try:
        run.everything(settings, run_id, options.sample)
    except (ConfigError, LockedError):
        raise
    except LakehouseError as error:
        failure = error
    if settings.notify:
        health.tell(settings, run_id, verdict_before, failure)
    if failure:
        raise failure
    return 0


def run_notebook(options: argparse.Namespace) -> int:
    from lakehouse_lib import notebooks

    settings = load_settings()
    with owned_engine(settings):
        run_id = settings.run_id or config.new_run_id()
        print(notebooks.execute(settings, options.name, run_id, latest=False).with_suffix(".html"))
    return 0


def write_sample(options: argparse.Namespace) -> int:
    from lakehouse_lib import sample

    settings = load_settings().sample
    if options.seed is not None:
        settings = settings.model_copy(update={"seed": options.seed})
    out = Path(options.out)
    if not (out / sample.MARK).exists() and any(path.is_file() for path in out.rglob("*")):
        raise ConfigError(f"{out} holds files that are no sample. Give an empty folder: nothing was written.")
    for feed, count in sample.write(settings, out, options.rows).items():
        print(f"{feed:<14} {count:>12,} records")
    return 0


def write_report(_: argparse.Namespace) -> int:
    from lakehouse_lib import run

    settings = load_settings()
    run.report(settings, settings.run_id or config.new_run_id(), latest=False)
    return 0


def serve_api(options: argparse.Namespace) -> int:
    from lakehouse_lib.serve import api

    api.serve(load_settings(), options.host, options.port)
    return 0


def start_lab(_: argparse.Namespace) -> int:
    import subprocess

    from lakehouse_lib.engines import session

    settings = load_settings()
    with owned_engine(settings):
        session.ensure(settings)
        return subprocess.call([sys.executable, "-m", "jupyterlab", str(config.project_root() / "notebooks")])
