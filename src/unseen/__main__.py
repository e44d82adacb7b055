"""`python -m unseen`."""

from __future__ import annotations

from unseen.cli.parser import main

if __name__ == "__main__":
    main()
