"""One readable loop per stage kind."""
