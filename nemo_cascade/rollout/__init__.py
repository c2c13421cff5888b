"""vLLM engines: generation and weight sync."""
