"""Asking brokers in a process of its own, which may die of the question.

What an admin client asks a group's coordinator (its members, its offsets, to delete it) ends the whole process with
``rd_kafka_enq_once_del_source_return: Assertion `eonce->refcnt > 0' failed`` when the connection to that broker breaks
at the wrong moment (seen with librdkafka 2.16; confluentinc/librdkafka#5397). Nothing that settles, accepts or looks
after transfers asks that; who must know has somebody else ask.
"""

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from jobs.transport import TransportAway

_Answer = TypeVar("_Answer")


def ask(question: Callable[..., _Answer], *given: Any, timeout_s: float) -> _Answer:
    """Return what a function of a module returns when another process calls it, with what is ``given``.

    Raises:
        TransportAway: the brokers do not answer, or not within the time, or that process has died of them.
    """
    processes = multiprocessing.get_context("spawn")  # a client does not survive a fork, nor do its threads
    receiver, sender = processes.Pipe(duplex=False)
    child = processes.Process(target=_answer, args=(sender, question, *given), daemon=True)
    with receiver:
        child.start()
        sender.close()  # so that the end of the child is the end of what it says
        try:
            if not receiver.poll(timeout_s):
                raise TransportAway("no answer")
            is_answer, said = receiver.recv()
        except EOFError:
            raise TransportAway("the client has broken down") from None
        finally:
            child.kill()  # without brokers the end of a client may take for ever
            child.join()
    if not is_answer:
        raise TransportAway(said)
    answer: _Answer = said
    return answer


def _answer(sender: Connection, question: Callable[..., object], *given: object) -> None:
    """Send what is asked for, or why there is none."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what the library says when it gives up is nothing that a command answers
        os.dup2(nowhere, stream)
    try:
        sender.send((True, question(*given)))
    except (KafkaException, TimeoutError) as error:
        sender.send((False, str(error) or type(error).__name__))
