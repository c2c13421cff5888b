"""Judge programs by their tests."""
