"""What is measured between the steps of a stage, and may end it."""
