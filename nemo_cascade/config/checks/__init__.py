"""What makes a run impossible, told before anything starts."""
