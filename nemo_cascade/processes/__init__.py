"""Processes: started, mapped over, and ended with the one that started them."""
