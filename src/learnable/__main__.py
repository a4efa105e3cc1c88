"""The command ``learnable``, also as ``python -m learnable``: listens to signals, then imports what takes a second."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from learnable.runs import stopping

    stopping.listen()
    try:
        from learnable.runs.progress import say_if_silent

        words = sys.argv[1:]
        if "--quiet" not in words:
            say_if_silent(
                f"{next((word for word in words if not word.startswith('-')), 'learnable')}: starting"
            )
        from learnable.cli.app import main as run
    except KeyboardInterrupt:
        stopping.end(stopping.told())
    run()


if __name__ == "__main__":
    try:
        here = os.getcwd()  # noqa: PTH109 (pathlib is not loaded yet)
    except FileNotFoundError:  # it was removed
        here = ""
    # Python puts the working folder first, where a file beside the data may have the name of a library.
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]):
        del sys.path[0]
    main()
