"""What the demo's models learn from: procedural data and data of installed packages."""
