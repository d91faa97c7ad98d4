"""The script ``gflow``, which is ``python -m gflow`` too."""

from __future__ import annotations

import signal

from gflow.ctrl_c import interrupt


def main() -> None:
    """Run the command line; Ctrl-C is told in a sentence from the start, while it is imported."""
    signal.signal(signal.SIGINT, interrupt)
    try:
        from gflow.cli import main as command

        command()
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted; nothing was written.") from None


if __name__ == "__main__":
    main()
