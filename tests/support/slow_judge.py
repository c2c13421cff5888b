"""A reward that takes its time and says so in a file: a test can see that answers are being judged right now."""

import time


def score(record, response, *, told, seconds):
    """Return a value that differs between answers; append a line to the file `told` first."""
    with open(told, "a") as file:
        file.write("judged\n")
    time.sleep(seconds)
    return (sum(map(ord, response.text)) % 7) / 6
