"""A cascade of one's own, written by `nemo-cascade init`: rows dealt out, numbers that fit, files."""
