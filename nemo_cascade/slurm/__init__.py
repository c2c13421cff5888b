"""Runs as Slurm jobs: the job script of a configuration, and what becomes of it. `templates` is the folder slurm/."""
