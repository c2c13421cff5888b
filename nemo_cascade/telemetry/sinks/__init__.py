"""Places that metrics go to beside metrics.jsonl: one file each, each run in a process of its own."""
