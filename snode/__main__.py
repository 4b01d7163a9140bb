"""``python -m snode``; light, so that Ctrl-C while the rest is imported ends in one line."""

from snode._early import quiet_interrupts

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    with quiet_interrupts():
        from snode.cli import main as run
    run()


if __name__ == "__main__":
    main()
