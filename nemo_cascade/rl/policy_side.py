"""The policy's side of rollouts that are drawn beside it: it waits for them, and gives new engines their weights.

The policy waits for nobody but who draws. A new engine in a dead one's place waits for the policy: between two updates
it gets the weights as they are then, and its rollouts say so. So nothing waits in a circle.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from typing import TypeVar

from nemo_cascade.actors.fleet import Member
from nemo_cascade.errors import RolloutError

LOOK_S = 0.2
Result = TypeVar("Result")


class UnwantedError(RolloutError):
    """The stage is at an end, and nobody wants what is being drawn."""


class PolicySide:
    """Made by the thread that trains.

    Args:
        version_of: step -> the weight version that it trains.
        restore: gives an engine the policy's present weights, as a version.
        step: that comes next.
    """

    def __init__(self, version_of: Callable[[int], int], restore: Callable[[Member, int], None], step: int) -> None:
        self.version_of, self._restore, self.step = version_of, restore, step
        self._owner = threading.current_thread()
        self._lost: queue.SimpleQueue[tuple[Member, Future[None]]] = queue.SimpleQueue()
        self._unwanted = threading.Event()

    def wait(self, drawing: Future[Result]) -> Result:
        """Wait for who draws, and meanwhile give new engines their weights: the policy has nothing else to do."""
        while True:
            try:
                return drawing.result(LOOK_S)
            except NotYetError:
                if drawing.done():
                    raise  # a deadline of its own
            while not self._lost.empty():
                member, given = self._lost.get()
                self._restore(member, self.version_of(self.step))
                given.set_result(None)

    def give_weights(self, member: Member) -> None:
        """Have a new engine wait until the policy is between two updates.

        Raises:
            UnwantedError: the stage ended meanwhile.
        """
        if threading.current_thread() is self._owner:  # nobody draws, and the engines are asked something else
            self._restore(member, self.version_of(self.step))
            return
        given: Future[None] = Future()
        self._lost.put((member, given))
        while not given.done():
            self.check_wanted()
            self._unwanted.wait(LOOK_S)

    def end(self) -> None:
        """From now on nobody wants what is being drawn."""
        self._unwanted.set()

    def check_wanted(self, _: int = 0) -> None:
        """Go on, or not.

        Raises:
            UnwantedError: the stage is at an end.
        """
        if self._unwanted.is_set():
            raise UnwantedError("the stage is at an end")
