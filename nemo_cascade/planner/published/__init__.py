"""Published figures: read into the planner's own values, predicted by it, fitted to."""
