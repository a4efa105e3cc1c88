"""``python -m learnable`` is the command ``learnable``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the working folder first, where a file beside the data may have the name of a library.
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 (pathlib is not loaded yet)
        del sys.path[0]
    from learnable.cli import main

    main()
