"""Nothing outlives the driver."""
