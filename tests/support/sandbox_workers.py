"""The processes behind a sandbox, for tests that kill them or count them."""


def worker_ids(sandbox):
    """Return the first process of each live worker."""
    return sorted(worker._process.pid for worker in list(sandbox.pool._all))
