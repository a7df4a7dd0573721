"""How the command line loads itself: nothing before it has decided how, and nothing is collected meanwhile."""

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kafkasaga.cli.loading import loading

FIRST = """
import gc, sys
import kafkasaga.cli
assert not {"sqlalchemy", "confluent_kafka", "pydantic", "typer"} & set(sys.modules), "loaded before main"
collections = []
gc.callbacks.append(lambda phase, info: collections.append(info["generation"]) if phase == "stop" else None)
sys.argv = ["kafkasaga", "--help"]
try:
    kafkasaga.cli.main()
except SystemExit as end:
    assert not end.code
assert "sqlalchemy" in sys.modules
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert len(collections) < 20, f"collected {len(collections)} times"
"""


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_the_command_line_is_loaded_by_its_main_and_nothing_is_collected_meanwhile() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FIRST], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_is_collected_inside_and_what_is_there_is_left_alone_afterwards() -> None:
    before = gc.get_freeze_count()
    with loading():
        assert not gc.isenabled()
        kept: list[list[int]] = [[] for _ in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()


def test_a_module_that_does_not_load_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
