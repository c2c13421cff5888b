"""How a stage draws its rollouts: ahead of the step that trains them, or continuously beside it."""
