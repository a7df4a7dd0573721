"""Kafka's jars: fetched once by Maven, kept in the user's cache directory."""

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.support.process import UnavailableError

POM = Path(__file__).with_name("pom.xml")
JAVA_NEEDED = 17
FETCH_SECONDS = 600.0
MAVEN_TAIL = 15  # lines of Maven's output in an error message


def missing() -> str | None:
    """What this machine lacks to run Kafka; None when nothing."""
    if shutil.which("java") is None:
        return "no Java: PATH has no java"
    if (version := java_version()) < JAVA_NEEDED:
        return f"Apache Kafka needs Java {JAVA_NEEDED}, and PATH has Java {version}"
    if shutil.which("mvn") is None and not _complete(cache_directory()):
        return "no Maven to fetch Apache Kafka with: PATH has no mvn"
    return None


@cache
def java_version() -> int:
    """The feature release of the Java on PATH; 0 when it does not say."""
    said = subprocess.run(["java", "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr)
    return int(version[1]) if version else 0


def cache_directory() -> Path:
    """Where the jars are kept, also between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    version = re.search(r"<kafka.version>(.+)</kafka.version>", POM.read_text())
    if version is None:
        raise AssertionError(f"{POM} names no version of Kafka")
    return Path(base) / "kafkasaga" / f"kafka-{version[1]}"


def jars() -> Path:
    """The directory that holds the jars, which are fetched when it does not; `UnavailableError` when that fails."""
    directory = cache_directory()
    if not _complete(directory):
        if reason := missing():
            raise UnavailableError(reason)
        _fetch(directory)
    return directory


def _complete(directory: Path) -> bool:
    """Whether the jars are those of this pom; the pom is copied last."""
    with suppress(FileNotFoundError):
        return (directory / POM.name).read_bytes() == POM.read_bytes()
    return False


def _fetch(directory: Path) -> None:
    """Fetch into a directory beside, then rename: several test runs may do so at once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetching-") as name:
        fetched = Path(name) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={fetched}"]
        try:
            maven = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(POM), *goal],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"Maven did not fetch Apache Kafka within {FETCH_SECONDS:.0f} s") from None
        if maven.returncode != 0:
            output = "\n".join(maven.stdout.splitlines()[-MAVEN_TAIL:])
            raise UnavailableError(f"Maven could not fetch Apache Kafka:\n{output}")
        shutil.copy(POM, fetched)
        _replace(directory, fetched)


def _replace(directory: Path, fetched: Path) -> None:
    try:
        fetched.rename(directory)
    except OSError:
        if _complete(directory):  # another run was faster
            return
        shutil.rmtree(directory)
        fetched.rename(directory)
