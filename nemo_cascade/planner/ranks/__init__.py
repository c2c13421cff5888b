"""What one rank, and one engine, holds: parameters to the byte, memory by part and phase."""
