"""Rewards for software engineering: repair, localisation, test writing."""
