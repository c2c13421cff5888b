"""The data of `nano_nemotron_3`: six environments, open questions whose thoughts are too long, and comparisons."""
