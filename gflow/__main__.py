"""``python -m gflow`` is ``gflow``."""

from __future__ import annotations

from gflow.cli import main

if __name__ == "__main__":
    main()
