"""Find repeats and evaluation prompts in training data."""
