"""``python -m bench`` is ``densebench``."""

from bench.cli import main

if __name__ == "__main__":
    main()
