"""Conversations to masked, packed token batches; prompts."""
