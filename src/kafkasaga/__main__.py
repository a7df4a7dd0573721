"""``python -m kafkasaga``: the command line."""

from kafkasaga.cli import main

main()
