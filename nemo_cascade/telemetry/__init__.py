"""Metrics, timers, progress, plots."""
