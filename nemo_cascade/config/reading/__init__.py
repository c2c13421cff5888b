"""From YAML and overrides to checked blocks, with the origin of every value."""
