"""``python -m snode``."""

from snode.cli import main

if __name__ == "__main__":
    main()
