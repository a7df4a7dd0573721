"""What importing the stores needs."""

import subprocess
import sys

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
