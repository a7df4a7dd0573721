"""All tests of the `postgresql` tier that run no service, on each version of PostgreSQL that kafkasaga works with.

`python -m tests.versions` (`nox -s versions`) takes all versions; `14 18` some.
"""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import UnavailableError, maven
from tests.support.process import TemporaryDirectory
from tests.support.tiers import REQUIRE, Tier

POM = Path(__file__).with_name("pom.xml")
MACHINE = ("Linux", "x86_64")
"""What the programs are made for."""
TESTS = ("tests/contract", "tests/unit", "tests/property")
AT_ONCE = ("-n", "2", "--dist", "loadfile")


def main(wanted: Sequence[str]) -> int:
    """Each version in its turn, whatever came of the others; all, if none is named. Returns the exit status."""
    try:
        archives = _archives()
    except UnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if unknown := set(wanted) - archives.keys():
        sys.stderr.write(f"no PostgreSQL {', '.join(sorted(unknown))}: there are {', '.join(archives)}\n")
        return 2
    passed = {version: _passes(version, archives[version]) for version in wanted or archives}
    for version, well in passed.items():
        sys.stdout.write(f"PostgreSQL {version}: {'passed' if well else 'FAILED'}\n")
    return int(not all(passed.values()))


def _archives() -> dict[str, Path]:
    """By their first number."""
    if (platform.system(), platform.machine()) != MACHINE:
        raise UnavailableError(f"the programs of other versions are made for {' on '.join(MACHINE)} only")
    folder = maven.fetched("PostgreSQL", POM, maven.cache_directory() / "postgresql", goal="copy")
    found = {path.stem.rpartition("-")[2].partition(".")[0]: path for path in sorted(folder.glob("*.jar"))}
    return dict(sorted(found.items()))


def _passes(version: str, archive: Path) -> bool:
    sys.stdout.write(f"PostgreSQL {version}\n")
    sys.stdout.flush()
    with _programs(archive) as programs:
        if not _are_whole(programs, version):
            sys.stderr.write(f"{archive.name} does not hold the programs of PostgreSQL {version}\n")
            return False
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, REQUIRE: Tier.POSTGRESQL}
        command = [sys.executable, "-m", "pytest", "-q", *AT_ONCE, "-m", Tier.POSTGRESQL, *TESTS]
        return subprocess.run(command, env=environment, check=False).returncode == 0


def _are_whole(programs: Path, version: str) -> bool:
    """Otherwise the machine's own would be tested, and taken for these."""
    if not all(os.access(programs / name, os.X_OK) for name in ("initdb", "postgres")):
        return False
    said = subprocess.run([str(programs / "postgres"), "--version"], capture_output=True, text=True, check=False).stdout
    return f" {version}." in said


@contextmanager
def _programs(archive: Path) -> Generator[Path]:
    """The directory with `initdb` and `postgres`, unpacked where every user of this machine may run them."""
    folder = TemporaryDirectory("kafkasaga-programs-")
    try:
        folder.path.chmod(0o755)
        with zipfile.ZipFile(archive) as jar:
            (packed,) = (name for name in jar.namelist() if name.endswith(".txz"))
            shutil.unpack_archive(jar.extract(packed, folder.path), folder.path, "xztar")
        yield folder.path / "bin"
    finally:
        folder.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
