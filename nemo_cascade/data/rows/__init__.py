"""Read raw rows, whatever the file's format, and map their columns to ours."""
