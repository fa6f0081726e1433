"""What every training shares: its loop and its checkpoint."""
