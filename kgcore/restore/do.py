# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do what a plan says: a running process, or nothing."""

import os
import signal
import struct

from kgcore.arch import ARCHES
from kgcore.errors import NotRestarted
from kgcore.restore.control import Control
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.here import timens_offsets
from kgcore.restore.layout import lay_out, take_away
from kgcore.restore.objects import Objects, opened
from kgcore.restore.plan import Plan
from kgcore.restore.running import set_registers, set_signals, set_state, start_threads, start_timers
from kgcore.restore.stub import Launch, Stub, failed
from kgcore.sources.live.calling import convention_of
from kgcore.system import stopping

__all__ = ("restart",)


def restart(plan: Plan, core: FinishedCore) -> int:
    """Start the process, and return its id. It is a child of this program, and runs.

    :raises NotRestarted: the plan refuses, or a step failed; nothing of it is left.
    :raises OSError: the core cannot be read.
    """
    if plan.refused:
        raise NotRestarted(f"cannot restart it: {plan.refused[0].what}", hint=plan.refused[0].hint)
    convention = convention_of(ARCHES[plan.need.view])
    with opened(plan, core) as objects:
        stub = Stub(_launch(plan, objects), convention)
        forget = stopping.clean_up(stub.kill)
        try:
            control = Control(stub, plan.need.view)
            try:
                lay_out(control, convention, plan, core, objects)
                objects.seal()
                start_threads(control, plan.need)
                set_state(control, plan, objects)
                set_signals(control, plan)
                start_timers(control, plan)
                objects.start_timers()
                objects.close()
                _let_go(control, plan, core)
            finally:
                control.close()
        except (struct.error, OverflowError, ValueError) as error:
            stub.kill()
            raise NotRestarted(f"cannot restart it: the core has a value that no kernel has: {error}") from error
        except BaseException:
            stub.kill()
            raise
        finally:
            forget()
    return plan.need.pid


def _launch(plan: Plan, objects: Objects) -> Launch:
    clocks = plan.need.state.clocks
    wanted = None
    if plan.keep_clocks and clocks is not None:
        wanted = (clocks.monotonic, clocks.boottime), timens_offsets()
    program = plan.memory.program
    return Launch(
        pid=plan.need.pid,
        program=objects.files[program],
        name=plan.memory.files[program].path,
        placed=objects.placed,
        kept=objects.kept,
        above=objects.above,
        watched=tuple(objects.watched),
        cwd=plan.cwd,
        umask=plan.need.state.umask or 0,
        clocks=wanted,
    )


def _let_go(control: Control, plan: Plan, core: FinishedCore) -> None:
    """Give each thread its registers, and let all go: until the last is let go, it dies with this program."""
    first, *others = plan.need.threads
    for thread in others:
        set_registers(control, plan, thread, core)
    take_away(control)
    set_registers(control, plan, first, core)
    try:
        if plan.stopped:
            os.kill(first.tid, signal.SIGSTOP)
        control.stub.release([thread.tid for thread in plan.need.threads])
    except OSError as error:
        raise failed("let it go", "ptrace", error) from error
