"""Processes that environments live in, apart from the driver: what hangs, crashes or forks there is ended with them."""
