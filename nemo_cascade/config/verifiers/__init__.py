"""Settings of everything that judges an answer."""
