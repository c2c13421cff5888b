"""Ray actors that place and watch the roles."""
