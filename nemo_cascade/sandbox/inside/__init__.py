"""What runs inside the sandbox: standard library only, no imports from the rest of the project."""
