"""Memory, time and support before anything starts."""
