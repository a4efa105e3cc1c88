"""The command ``learnable``, also as ``python -m learnable``: listens to signals, then imports what takes a second."""

from learnable import stopping


def main() -> None:
    """Run the command line and exit with its code."""
    stopping.listen()
    try:
        from learnable.cli import main as run
    except KeyboardInterrupt:
        stopping.end(stopping.told())
    run()


if __name__ == "__main__":
    main()
