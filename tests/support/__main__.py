"""Start PostgreSQL and Apache Kafka for use by hand, say where they are, and stop them on Ctrl-C."""

import signal
import sys
from contextlib import suppress

from tests.support import KafkaServer, PostgresServer


def main() -> None:
    with PostgresServer() as postgres, KafkaServer() as kafka:
        sys.stdout.write(
            f"PostgreSQL  {postgres.url()}\nKafka       {kafka.bootstrap_servers}\nuntil Ctrl-C\n",
        )
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        main()
