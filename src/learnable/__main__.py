"""``python -m learnable`` is the command ``learnable``."""

from learnable.cli import main

if __name__ == "__main__":
    main()
