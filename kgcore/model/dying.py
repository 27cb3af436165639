# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe a process that was dying of a signal when the machine stopped."""

from dataclasses import dataclass
from typing import Literal

from kgcore.model import siginfo
from kgcore.model.siginfo import Fault, SigInfo

__all__ = ("Dying", "Stage")

Stage = Literal["dumping-core", "exiting", "pending", "core-written"]
_WORDS: dict[Stage, str] = {
    "dumping-core": "the kernel was writing its core for {}",
    "exiting": "{} was ending it",
    "pending": "{} was pending",
    "core-written": "its core was written at {}",
}


@dataclass(frozen=True, slots=True)
class Dying:
    """A process that a signal is about to end, or has begun to.

    :ivar signal: its number.
    :ivar stage: ``dumping-core``: the kernel was writing its core; ``exiting``: its threads were exiting; ``pending``:
        no thread has handled it yet; ``core-written``: a core of it was written then.
    :ivar tid: the thread that it hit, in the initial pid namespace; None: the process, or unknown.
    :ivar info: the signal's siginfo; None: unknown.
    :ivar fault: the last exception of that thread, if exceptions cause that signal.
    """

    signal: int
    stage: Stage
    tid: int | None = None
    info: SigInfo | None = None
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """Of the signal: ``SIGSEGV``."""
        return siginfo.signal_name(self.signal)

    def words(self) -> str:
        """Return it for people, as part of a sentence."""
        what = self.name + (siginfo.words(self.info) if self.info is not None else "")
        text = _WORDS[self.stage].format(what) + (f", which thread {self.tid} got" if self.tid is not None else "")
        if self.info is None and self.fault is not None and self.fault.address:
            text += f"; the last fault of that thread was at address {self.fault.address:#x}"
        return text

    def brief(self) -> dict[str, object]:
        """Return a short value for ``json.dumps``."""
        return {"signal": self.signal, "name": self.name, "stage": self.stage, "tid": self.tid}

    def to_json(self) -> dict[str, object]:
        """Return all of it for ``json.dumps``."""
        info, fault = self.info, self.fault
        return {
            **self.brief(),
            "info": None
            if info is None
            else {
                "code": info.code,
                "code_name": siginfo.code_name(info.signal, info.code),
                "errno": info.errno,
                **dict(info.fields),
            },
            "fault": None
            if fault is None
            else {"trap": fault.trap, "error_code": fault.error_code, "address": fault.address},
        }
