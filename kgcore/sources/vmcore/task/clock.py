# SPDX-License-Identifier: LGPL-2.1-or-later
"""The time of the crash, and what was left of timers then."""

from functools import cached_property

from drgn import FaultError, offsetof, sizeof

from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members

__all__ = ("CLOCK_BOOTTIME_ALARM", "CLOCK_REALTIME_ALARM", "Clock")

CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM = 8, 9  # include/uapi/linux/time.h
_OFFSETS = {CLOCK_REALTIME_ALARM: "offs_real", CLOCK_BOOTTIME_ALARM: "offs_boot"}
_TIMEKEEPER = ("tkr_mono.clock", "tkr_mono.shift", "tkr_mono.xtime_nsec", "tkr_mono.base", "tkr_raw.clock",
               "offs_real", "offs_boot")  # fmt: skip
_ENQUEUED = 1  # HRTIMER_STATE_ENQUEUED


class Clock:
    """The kernel's clocks when they were last kept, at most a tick or so before the crash."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        # 22f011be7aaa "hrtimer: Convert state and properties to boolean" (7.1)
        self._queued = "is_queued" if kernel.target.has_member("struct hrtimer", "is_queued") else "state"
        self._timers = kernel.structs("struct hrtimer", "node.expires", self._queued, "base")
        self._bases = kernel.structs("struct hrtimer_clock_base", "offset")

    @cached_property
    def _keeper(self) -> Members:
        """Return the ``struct timekeeper`` of the machine.

        :raises FaultError: it is not in the dump.
        :raises LookupError: the kernel has it elsewhere.
        """
        kernel = self._kernel
        address = kernel.target.symbol_address("timekeeper_data")
        if address is None:  # before 22c62b9a84b8 "timekeeping: Introduce auxiliary timekeepers" (6.17)
            address = kernel.target.symbol_address("tk_core")
        if address is None:
            raise LookupError("its timekeeper was not found")
        if kernel.target.has_type("struct tk_data"):
            # 10f7c178a9da "timekeeping: Define a struct type for tk_core to make it reusable" (6.13)
            address += int(offsetof(kernel.prog.type("struct tk_data"), "timekeeper"))
        else:  # a structure without a name: a sequence counter, then the timekeeper
            size = sizeof(kernel.prog.type("seqcount_raw_spinlock_t"))
            address += -(-size // kernel.word_size) * kernel.word_size
        found = kernel.structs("struct timekeeper", *_TIMEKEEPER).read(address)
        if not found["tkr_mono.clock"] or found["tkr_mono.clock"] != found["tkr_raw.clock"]:
            raise LookupError("its timekeeper is not where it should be")
        return found

    @cached_property
    def monotonic(self) -> int:
        """CLOCK_MONOTONIC of the machine, without any time namespace's offset.

        :raises FaultError, LookupError: it is not known.
        """
        keeper = self._keeper
        part = int(keeper["tkr_mono.xtime_nsec"]) >> (int(keeper["tkr_mono.shift"]) & 63)
        return int(keeper["tkr_mono.base"]) + part

    @property
    def boottime(self) -> int:
        """CLOCK_BOOTTIME, in the same way.

        :raises FaultError, LookupError: it is not known.
        """
        return self.monotonic + int(self._keeper["offs_boot"])

    def left(self, timer: int) -> tuple[int, bool]:
        """Return what is left of a timer, which may be less than 0, and whether it runs.

        :param timer: address of a ``struct hrtimer``.
        :raises FaultError, LookupError: it is not known.
        """
        found = self._timers.read(timer)
        expires = int(found["node.expires"])
        if not expires:
            return 0, False
        offset = int(self._bases.read(found["base"])["offset"])
        return expires - offset - self.monotonic, bool(found[self._queued] & _ENQUEUED)

    def left_of_alarm(self, alarm: int, clock: int) -> tuple[int, bool]:
        """Return the same of an alarm, which wakes the machine.

        :param alarm: address of a ``struct alarm``.
        :param clock: CLOCK_REALTIME_ALARM or CLOCK_BOOTTIME_ALARM.
        :raises FaultError, LookupError: it is not known.
        """
        found = self._kernel.structs("struct alarm", "node.expires", "state").read(alarm)
        expires = int(found["node.expires"])
        if not expires:
            return 0, False
        if clock not in _OFFSETS:
            raise FaultError(f"an alarm of clock {clock}", alarm)
        return expires - int(self._keeper[_OFFSETS[clock]]) - self.monotonic, bool(found["state"] & _ENQUEUED)
