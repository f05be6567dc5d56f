# SPDX-License-Identifier: Apache-2.0
"""An entropy device that gives what the guest wrote into shared memory, for tests of such regions."""

from vmmcore import Queue, VirtioDevice


class Shared(VirtioDevice):
    virtio_id = 4
    queue_sizes = (64,)

    def configure(self) -> None:
        self.add_shared_memory(1, 8192)
        self.add_shared_memory(7, 4096)

    def handle(self, queue: Queue) -> None:
        shared = self.shared_memory(7)
        for chain in queue:
            chain.write(shared[:16].tobytes())
            shared[0] = (shared[0] + 1) % 256
