"""How any thread wakes the one that polls: with a system call only when that sleeps."""

from __future__ import annotations

import os


class Doorbell:
    """An eventfd. The polling thread sets `sleeping` before it looks for work: whoever adds after the look rings."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.sleeping = False

    def ring(self) -> None:
        """Wake the polling thread."""
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Take the ring that `fd` was readable for."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Free the descriptor."""
        os.close(self.fd)
