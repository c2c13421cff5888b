"""The verifier of answers that are to follow a schema."""
