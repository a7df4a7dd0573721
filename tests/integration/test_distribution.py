"""What the built distributions contain."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
EXAMPLE = "kafkasaga/examples/order_system/__init__.py"


def build(source: Path, target: str, destination: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(destination)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = destination.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(PROJECT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_package_types_marker_and_example(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {EXAMPLE, "kafkasaga/py.typed", "kafkasaga/errors.py"} <= set(names)
    assert len(names) == len(set(names))
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"kafkasaga"}


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    sources = [path for path in (PROJECT / "src").rglob("*.py") if "examples" not in path.parts]
    expected = {path.relative_to(PROJECT / "src").as_posix() for path in sources}
    expected |= {f"kafkasaga/{path.relative_to(PROJECT).as_posix()}" for path in (PROJECT / "examples").rglob("*.py")}
    assert expected == {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    sdist = build(PROJECT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        # Python 3.11.4 and later ask how far to trust an archive; earlier ones do not know the word.
        trust: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "unpacked", **trust)  # noqa: S202 (made by ourselves, above)
    (source,) = (tmp_path / "unpacked").iterdir()
    rebuilt = build(source, "wheel", tmp_path / "rebuilt")
    assert zipfile.ZipFile(rebuilt).namelist() == zipfile.ZipFile(wheel).namelist()
