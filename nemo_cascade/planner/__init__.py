"""What a run needs and how long it takes, before it starts: memory by rank, seconds by phase, the best layout."""
