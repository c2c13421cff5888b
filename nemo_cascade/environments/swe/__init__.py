"""Agentic software engineering: a repository, tools to work on it, hidden tests that judge it."""
