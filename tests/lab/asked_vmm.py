# SPDX-License-Identifier: Apache-2.0
"""`vmm run` by the Python API, for tests that change the VM from outside.

VMM_ASK names a Unix socket to listen on: each line is JSON, [method of Vm, {arguments}], and so is the answer,
{"ok": result} or {"error": text}.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading

from vmmcore import Vm, VmmError
from vmmcore.front.cli.machine import config_from, read_plainly


def main() -> int:
    given = read_plainly(sys.argv[1:])
    assert given is not None, sys.argv
    with Vm(config_from(*given)) as vm:

        class Asked(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    method, arguments = json.loads(line)
                    try:
                        answer = {"ok": getattr(vm, method)(**arguments)}
                    except VmmError as error:
                        answer = {"error": str(error)}
                    self.wfile.write(json.dumps(answer).encode() + b"\n")

        vm.create()
        server = socketserver.ThreadingUnixStreamServer(os.environ["VMM_ASK"], Asked)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        vm.boot()
        status = vm.wait()
        assert status is not None
        return status


if __name__ == "__main__":
    sys.exit(main())
