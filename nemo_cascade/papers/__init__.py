"""The published recipes' values, compared with ours by command."""
