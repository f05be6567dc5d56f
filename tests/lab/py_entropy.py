# SPDX-License-Identifier: Apache-2.0
"""An entropy device in Python (virtio 1.2 §5.4), for tests of the transport: what it gives can be recognised."""

from vmmcore import Queue, VirtioDevice


class Entropy(VirtioDevice):
    virtio_id = 4
    queue_sizes = (64,)

    def configure(self) -> None:
        self.given = 0
        self.transport_features &= ~int(self.options.get("without", "0"), 0)

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.given += chain.write(bytes((self.given + n) & 0xFF for n in range(chain.room)))
