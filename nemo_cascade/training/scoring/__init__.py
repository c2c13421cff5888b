"""Models that only score: reward models at work."""
