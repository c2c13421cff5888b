"""What models say of tokens and responses: for a loss, or as models that only score."""
