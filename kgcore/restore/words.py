# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a plan says of things that cannot be had again, or not as they were."""

from dataclasses import dataclass

__all__ = ("WORDS", "Refusal")

WORDS = {
    "age": "take a file as it is that nothing proves to be the one that was mapped",
    "build-id": "take a file that is not the one that was mapped",
    "clock": "let a thread wait for a deadline that lies further in the future than it did",
    "cpu": "run on a CPU that lacks what the program's CPU had",
    "dying": "let a process go on that was dying of a signal",
    "files": "open files that have another length than they had, or lack what was not on the disk yet",
    "registers": "make registers zero that are not known",
    "stale-fpu": "use old values of floating-point and vector registers",
    "unknown": "do without what the core does not know",
    "write": "let a write start again that may have been done in part",
}
"""The words of ``--allow``: what each allows. A refusal with another word cannot be allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a process is not restarted.

    :ivar word: of its kind; in :data:`WORDS` if it can be allowed.
    :ivar what: what is wrong, and where, as a clause.
    :ivar hint: what would allow it; "": nothing.
    """

    word: str
    what: str
    hint: str = ""

    @property
    def allowable(self) -> bool:
        """Whether ``--allow`` and ``--force`` overrule it."""
        return self.word in WORDS
