"""What importing the stores needs."""

import subprocess
import sys
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine

from kafkasaga.stores import migrations
from kafkasaga.stores.migrations import upgrade
from kafkasaga.stores.schema import Tables

WITHOUT_GREENLET = """
import sys
sys.modules["greenlet"] = None
import kafkasaga.stores
from sqlalchemy import MetaData
kafkasaga.stores.Outbox(MetaData())
assert "sqlalchemy.ext.asyncio" not in sys.modules
"""


def test_greenlet_is_not_needed() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_GREENLET], check=True, env={"PYTHONPATH": ":".join(sys.path)})


WITHOUT_ALEMBIC = """
import sys
import kafkasaga.runtime.runner
from sqlalchemy import MetaData, create_engine
from kafkasaga.stores.migrations import check
from kafkasaga.stores.schema import Tables
check(create_engine(sys.argv[1]), Tables(MetaData()))
assert "alembic" not in sys.modules
"""


def test_a_service_starts_without_alembic(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    upgrade(engine, Tables(MetaData()))
    engine.dispose()
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", WITHOUT_ALEMBIC, sqlite_url], check=True, env=environment)


def test_the_newest_migration_is_the_one_that_alembic_takes_for_it() -> None:
    folder = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    assert migrations.head() == ScriptDirectory.from_config(config).get_current_head()
