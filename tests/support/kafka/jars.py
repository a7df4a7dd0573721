"""Kafka's jars: fetched once by Maven, kept in the user's cache directory."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support import maven
from tests.support.process import UnavailableError

POM = Path(__file__).with_name("pom.xml")
JAVA_NEEDED = 17
NAME = "Apache Kafka"


def missing() -> str | None:
    """What this machine lacks to run Kafka; None when nothing."""
    if shutil.which("java") is None:
        return "no Java: PATH has no java"
    if (version := java_version()) < JAVA_NEEDED:
        return f"{NAME} needs Java {JAVA_NEEDED}, and PATH has Java {version}"
    if not maven.is_there(POM, _directory()) and (reason := maven.missing()):
        return f"no Maven to fetch {NAME} with: {reason}"
    return None


@cache
def java_version() -> int:
    """The feature release of the Java on PATH; 0 when it does not say."""
    said = subprocess.run(["java", "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr)
    return int(version[1]) if version else 0


def jars() -> Path:
    """The directory that holds the jars, which are fetched when it does not; `UnavailableError` when that fails."""
    if reason := missing():
        raise UnavailableError(reason)
    return maven.fetched(NAME, POM, _directory())


def _directory() -> Path:
    version = re.search(r"<kafka.version>(.+)</kafka.version>", POM.read_text())
    if version is None:
        raise AssertionError(f"{POM} names no version of Kafka")
    return maven.cache_directory() / f"kafka-{version[1]}"
