"""Where independent units of work run: on this machine, on a Ray cluster, as array tasks of SLURM."""
