"""Everything that a GPU must show, in one command: see ``__main__`` and docs/performance.md."""
