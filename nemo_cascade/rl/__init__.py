"""Reinforcement learning between the actors and a stage's loop: tasks asked, judged, rewarded, and trained on."""
