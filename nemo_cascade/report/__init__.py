"""Pages that people look at, made from a run folder alone."""
