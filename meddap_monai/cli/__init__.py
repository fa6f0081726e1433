"""The console command ``meddap``, where installed scripts look for it."""

from meddap_monai.cli.main import main

__all__ = ["main"]
