# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process for each client: it reads the request, decides, has the core made, and answers.

The daemon itself reads nothing that clients send, and receives none of their descriptors: even to close one may take as
long as its owner likes (FUSE, SO_LINGER). What goes wrong here harms this client alone.
"""

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import termios
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace

from kgcore.coredumper.options import DumpOptions
from kgcore.daemon import protocol
from kgcore.daemon.log import Level, say
from kgcore.daemon.output import Output, checked, received
from kgcore.daemon.peer import Peer, peer_of
from kgcore.daemon.permission import Allowed, allowed
from kgcore.daemon.protocol import BadMessage, Kind
from kgcore.daemon.refusal import Refusal, number_of
from kgcore.daemon.request import Request, request_of, wish
from kgcore.daemon.work import Job, file_size_of, work
from kgcore.system.children import child, ended

__all__ = ("Settings", "refuse", "serve")

_PATIENCE = 5.0  # seconds for a client to make room for its answer
_UNREAD = 1 << 14  # bytes that a client leaves unread: it hears of no more progress
_DRAINED = 100  # messages
_CLOSED = select.POLLHUP | select.POLLRDHUP | select.POLLERR


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the daemon decides.

    :ivar daemon: its process id.
    :ivar max_time: seconds that a dump may take.
    :ivar foreign: who may connect may have any process.
    """

    daemon: int
    max_time: float
    foreign: bool


def serve(connection: socket.socket, settings: Settings, since: float) -> int:
    """Serve a client whose first message is there; return the exit status.

    :param since: when its connection was accepted, by CLOCK_BOOTTIME.
    """
    _Session(connection, settings).run(peer_of(connection, since))
    _drain(connection)
    return 0


def refuse(connection: socket.socket, number: int, message: str) -> int:
    """Answer a client that it gets no core; return the exit status.

    :param number: errno; 0: it has gone, and hears nothing.
    """
    with suppress(OSError):
        if number:
            packet = connection.recv(protocol.MAX_REQUEST, socket.MSG_DONTWAIT) if _readable(connection) else b""
            connection.send(protocol.error(_id_of(packet), number, message), socket.MSG_DONTWAIT)
    _drain(connection)
    return 0


def _readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def _id_of(packet: bytes) -> int:
    try:
        return protocol.unpack(packet).id
    except BadMessage as error:
        return error.id


def _drain(connection: socket.socket) -> None:
    """Read what the client has sent besides: it would lose its answer if that stayed unread (ECONNRESET)."""
    with suppress(OSError):
        for _ in range(_DRAINED):
            if not connection.recv(1, socket.MSG_DONTWAIT):
                break


class _Gone(Exception):
    """The client has closed its connection."""


class _Session:
    """
    :ivar _what: the process that it asks for, for the log.
    """

    def __init__(self, connection: socket.socket, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._id = 0
        self._what = ""

    def run(self, peer: Peer) -> None:
        """Serve the client, and log what became of it."""
        who = peer.words()
        level = Level.INFO
        try:
            outcome = self._serve(peer)
        except _Gone:
            outcome = "given up: the client has gone"
        except (Refusal, OSError) as error:
            number = error.errno if isinstance(error, Refusal) else number_of(error)
            text = str(error) if isinstance(error, Refusal) else error.strerror or str(error)
            outcome, level = f"refused: {_name(number)} ({text})", Level.WARNING
            self._answer(protocol.error(self._id, number, text))
        except Exception:  # noqa: BLE001  (a defect: the log has it, and the client an answer)
            outcome, level = f"unexpected: {traceback.format_exc()}", Level.ERROR
            self._answer(protocol.error(self._id, errno.EIO, "unexpected error of the daemon; its log says which"))
        say(level, f"{who}: {self._what}{outcome}")

    def _serve(self, peer: Peer) -> str:
        request, output = self._request()
        if request.pid is not None:
            self._what = f"process {request.pid}: "
        process = allowed(peer, request.pid, request.tid, daemon=self._settings.daemon, foreign=self._settings.foreign)
        self._what = f"process {process.pid}: "
        return self._dump(self._job(request, output, process, peer), output)

    def _request(self) -> tuple[Request, Output]:
        packet, descriptors, too_many = received(self._connection)
        if len(packet) > protocol.MAX_REQUEST:
            self._id = _id_of(packet)
            raise Refusal(errno.EMSGSIZE, f"a message of more than {protocol.MAX_REQUEST} bytes")
        try:
            message = protocol.unpack(packet)
        except BadMessage as error:
            self._id = error.id
            raise Refusal(error.errno, str(error)) from None
        self._id = message.id
        if message.kind == Kind.CANCEL:
            raise Refusal(errno.ECANCELED, "given up before it was asked for")
        if message.kind != Kind.DUMP:
            raise Refusal(errno.EBADMSG, f"a message of the unknown type {message.kind}")
        request = request_of(message.body)
        return request, checked(descriptors, too_many=too_many)

    def _job(self, request: Request, output: Output, process: Allowed, peer: Peer) -> Job:
        options: DumpOptions = request.options
        if output.is_pipe and process.own:
            if options.get("freeze") == "stop":
                raise Refusal(errno.EINVAL, "freeze=stop into a pipe: who stands still cannot read it")
            options = {**options, "freeze": "fork"}
        wanted = wish(replace(request, options=options), process.tid, output.descriptor)
        return Job(
            wish=replace(wanted, location=replace(wanted.location, expected=process.expected, forks=True)),
            id=self._id,
            session=os.getpid(),
            progress=request.progress,
            report=request.report,
            file_size=resource.RLIM_INFINITY if output.is_pipe else file_size_of(peer.pid),
        )

    def _dump(self, job: Job, output: Output) -> str:
        """Have the core made, and return what became of it."""
        if job.progress:
            self._answer(protocol.pack(Kind.STARTED, self._id))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def works() -> int:
            ours.close()
            self._connection.close()
            return work(job, theirs)

        worker = child(works)
        theirs.close()
        os.close(output.descriptor)
        try:
            packet = self._wait(ours)
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)  # it has answered, or is to give up; who stands still goes on
            status = ended(worker, wait=True)
        if packet is None:
            how = f"was killed by signal {-status}" if status is not None and status < 0 else "failed"
            packet = protocol.error(self._id, errno.EIO, f"the process that makes the core {how}")
        taken = self._answer(packet)
        return _outcome(packet) + ("" if taken else "; the client has gone, or reads nothing")

    def _wait(self, answers: socket.socket) -> bytes | None:
        """Pass on progress, and return the answer; None: the worker has ended without one.

        :raises Refusal: the client gives up, or breaks the rules, or it takes too long.
        :raises _Gone: it has gone.
        """
        deadline = time.monotonic() + self._settings.max_time
        poll = select.poll()
        poll.register(answers, select.POLLIN)
        poll.register(self._connection, select.POLLIN | select.POLLRDHUP)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Refusal(errno.ETIMEDOUT, f"the dump takes longer than {self._settings.max_time:g} s")
            events = dict(poll.poll(left * 1000 + 1))
            if answers.fileno() in events:
                packet = answers.recv(protocol.MAX_ANSWER)
                if not packet:
                    return None
                if protocol.unpack(packet).kind != Kind.PROGRESS:
                    return packet
                self._pass_on(packet)
            if self._connection.fileno() in events:
                self._hear(events[self._connection.fileno()])

    def _pass_on(self, packet: bytes) -> None:
        """Send the client its progress, if it reads what it gets."""
        unread = fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4))
        if struct.unpack("=i", unread)[0] < _UNREAD:
            with suppress(OSError):
                self._connection.send(packet, socket.MSG_DONTWAIT)

    def _hear(self, events: int) -> None:
        """Hear what the client says while its core is made: only that it gives up."""
        packet, descriptors, _ = received(self._connection)
        for descriptor in descriptors:
            os.close(descriptor)
        if not packet and events & _CLOSED:
            raise _Gone
        with suppress(BadMessage):
            if protocol.unpack(packet).kind == Kind.CANCEL:
                raise Refusal(errno.ECANCELED, "given up by the client")
        raise Refusal(errno.EINVAL, "a message besides the request: a connection is for one request")

    def _answer(self, packet: bytes) -> bool:
        """Send a message, and say whether the client takes it."""
        self._connection.settimeout(_PATIENCE)
        try:
            self._connection.send(packet)
        except OSError:
            return False
        finally:
            self._connection.settimeout(None)  # with a time limit, MSG_DONTWAIT waits as well
        return True


def _outcome(packet: bytes) -> str:
    message = protocol.unpack(packet)
    if message.kind == Kind.DONE:
        done = protocol.read_done(message.body)
        return f"{'complete' if done.status == 0 else 'incomplete'}, {done.size} bytes"
    number, text = protocol.read_error(message.body)
    return f"failed: {_name(number)} ({text})"


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
