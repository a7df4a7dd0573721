"""The ``kafkasaga`` command."""

from kafkasaga.cli.loading import loading

__all__ = ["main"]


def main() -> None:
    """Run the command line. Exit status 2: something is configured or defined wrongly; 1: it failed."""
    with loading():
        from kafkasaga.cli.app import main
    main()
