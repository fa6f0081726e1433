"""One scaffold for everything that is trained: steps, checkpoints, schedules, moving averages, handlers."""
