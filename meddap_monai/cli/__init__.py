"""The console command ``meddap``."""
