"""A client that never gives up: it repeats each request under its idempotency key until it has an answer."""

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from ops.local.server import LOOPBACK
from tests.chaos.calls import Call, Followed, Page, Read
from tests.chaos.drawing import BY_REST, METHODS, Drawing
from tests.chaos.faces import Face, NoAnswerError, WrongAnswerError
from tests.chaos.faces.grpc import Grpc
from tests.chaos.faces.rest import Rest

# Of all that is asked by a client who knows both faces, so much goes by gRPC at first.
BY_GRPC = 1 / 3
# Of what is sent again, and of what was followed in vain.
BY_ANOTHER = 1 / 4
# Of all requests those that move nothing; of the orders those that are given again after their answer, by any face;
# of the jobs those whose end is waited for.
READS, REPEATED, FOLLOWED = 0.15, 0.05, 0.15
# The longest that one of them is, and how long of that in one go.
PATIENCE_S, WATCH_S = 20.0, 5
# The bound on how hard a dead server is knocked at.
PAUSE_S = 0.05
# Those whose end is another thing than their answer.
JOBS = frozenset({"EnqueueTransfer", "Plan"})

T = TypeVar("T")


class Client(threading.Thread):
    """Sends random requests until told to stop, one at a time, and keeps what was answered."""

    def __init__(
        self,
        name: str,
        port: int,
        *,
        users: Sequence[int],
        seed: int,
        channel: grpc.Channel | None = None,
        hosts: Sequence[str] = (LOOPBACK,),
        by_another: float = BY_ANOTHER,
        keeps_alive: bool = True,
        pause_s: float = 0.0,
        methods: Mapping[str, int] = METHODS,
    ) -> None:
        """Know REST, and gRPC as well where there is a channel.

        Args:
            name: what its keys begin with.
            port: of REST.
            users: who may be asked for.
            seed: says what is asked, and how.
            channel: to gRPC.
            hosts: where there is REST. Two thirds of what is asked goes to the first at first.
            by_another: of what is sent again, so much goes to another face or host.
            keeps_alive: without it every request by REST has a connection of its own.
            pause_s: after each answer.
            methods: what is asked for, and how often. Those that only REST has go to the first host alone.
        """
        super().__init__(name=name, daemon=True)
        self.calls: list[Call] = []
        self.reads: list[Read] = []
        self.wrong: list[str] = []
        self._users = users
        self._by_another = by_another
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._drawing = Drawing(self._random, users, name, methods)
        # Apart from what is asked, which is not to depend on what had to be sent again.
        self._how = random.Random(seed + 1)
        self._stopping = threading.Event()
        self.rest, *others = (Rest(port, host=each, keeps_alive=keeps_alive) for each in hosts)
        self.faces: list[Face] = [self.rest, *others]
        if channel is not None:
            self.faces.append(Grpc(channel, self._how))
        self.ask: Callable[..., tuple[int, Any]] = self.rest.ask

    @property
    def statuses(self) -> Counter[int | str]:
        """How often REST has answered what, or what came in place of an answer."""
        return self.rest.words

    def close(self) -> None:
        """Hang up."""
        for face in self.faces:
            face.close()

    def stop(self) -> None:
        """Ask it to end once the request under way has been answered."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._random.random() < READS:
                    self._read()
                else:
                    self._move()
            except WrongAnswerError as error:
                self.wrong.append(str(error))
            self._stopping.wait(self._pause_s)
        self.close()

    def until_answered(
        self, ask: Callable[[Face], T], face: Face | None = None, *, patience_s: float = math.inf, only: bool = False
    ) -> T:
        """Ask until there is an answer, by this face or that.

        Args:
            ask: what is asked; it is given whom.
            face: whom at first; if not given, it is drawn.
            patience_s: after these nothing is sent again.
            only: by no other face.

        Raises:
            NoAnswerError: there is none within them.
            WrongAnswerError: it is none that could be right.
        """
        ends_at = time.monotonic() + patience_s
        face = face or self._draw_face()
        while True:
            try:
                return ask(face)
            except NoAnswerError:
                if time.monotonic() > ends_at:
                    raise
            time.sleep(PAUSE_S)
            if not only and self._how.random() < self._by_another:
                face = self._another(face)

    def _move(self) -> None:
        call = self._drawing.draw(self.calls)
        self.calls.append(call)
        self._give(call)
        if not call.transfer_id:
            return
        if self._how.random() < REPEATED:
            self._give(call, self._another(self._draw_face()))
        if call.method in JOBS and self._how.random() < FOLLOWED:
            self._follow(call)

    def _give(self, call: Call, face: Face | None = None) -> None:
        def give(face: Face) -> None:
            call.begun = call.begun or time.monotonic()
            call.tries.append(face.name)
            call.answers.append(face.move(call))
            call.ended = call.ended or time.monotonic()

        if call.method in BY_REST:
            self.until_answered(give, self.rest, only=True)
        else:
            self.until_answered(give, face)

    def _follow(self, call: Call) -> None:
        """Wait for the end of a job, for as long as anybody would."""

        ends_at = time.monotonic() + PATIENCE_S
        while not self._stopping.is_set() and time.monotonic() < ends_at:
            face = self._draw_face()
            try:
                job = face.follow_job(call.user, call.transfer_id, WATCH_S)
            except NoAnswerError:
                self._stopping.wait(PAUSE_S)
                continue
            if job is None or job.is_final:
                call.followed = Followed(face.name, job)
                return

    def _read(self) -> None:
        user, wants_history = self._random.choice(self._users), self._random.random() < 0.5

        def read(face: Face) -> Read:
            page = face.read_history(user) if wants_history else Page(face.read_balance(user), ())
            return Read(face.name, user, page)

        self.reads.append(self.until_answered(read))

    def _draw_face(self) -> Face:
        return self.faces[-1] if self._how.random() < BY_GRPC else self.faces[0]

    def _another(self, face: Face) -> Face:
        return next((each for each in self.faces if each is not face), face)
