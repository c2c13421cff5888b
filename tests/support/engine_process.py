"""A RolloutWorker in a process of its own: vLLM changes torch's settings for the whole process it runs in."""

import multiprocessing
import traceback


def _serve(pipe, arguments):
    from nemo_cascade.rollout.engine import RolloutWorker

    try:
        worker = RolloutWorker(**arguments)
        pipe.send((True, worker.start_seconds))
    except BaseException as error:
        pipe.send((False, error))
        return
    while True:
        work, args = pipe.recv()
        try:
            pipe.send((True, work(worker, *args)))
        except Exception as error:
            traceback.print_exc()
            pipe.send((False, error))


class EngineProcess:
    """Start with RolloutWorker's arguments; `do(function, *args)` calls `function(worker, *args)` over there."""

    def __init__(self, **arguments):
        self._pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, arguments), daemon=True
        )
        self.process.start()
        theirs.close()
        self._started = False

    def wait_until_up(self):
        self.start_seconds = self._answer(180)
        self._started = True

    def do(self, work, *args, timeout_s=120):
        if not self._started:
            self.wait_until_up()
        self._pipe.send((work, args))
        return self._answer(timeout_s)

    def close(self):
        self.process.kill()
        self.process.join()

    def _answer(self, timeout_s):
        assert self._pipe.poll(timeout_s), "the engine's process does not answer"
        fine, answer = self._pipe.recv()
        if not fine:
            raise answer
        return answer
