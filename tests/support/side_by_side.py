"""Run programs side by side on all workers of a sandbox."""

from concurrent.futures import ThreadPoolExecutor


def run_all(sandbox, programs):
    """Outcomes in the order of the programs."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(sandbox.run, programs))
