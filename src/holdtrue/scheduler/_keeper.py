"""Keeps one attempt: starts its command, waits, and writes how it ended: `python _keeper.py FOLDER LOCK_FD`.

A file of its own, run without site, which imports nothing of holdtrue. It outlives the scheduler that started it, so
that the exit status is known whoever asks later. The lock came with the scheduler's fork and is held by this process
and its command: who can take it knows that both are gone.

FOLDER/order.json   command, cwd, env            read
FOLDER/started      process ids: own, command's  written before anything else runs, and again with the command's
FOLDER/exit         exit status of the command   written whole or not at all
FOLDER/output.log   what it printed
"""

import json
import os
import signal
import subprocess
import sys


def main() -> None:
    """Run the order to its end."""
    folder, lock = sys.argv[1], int(sys.argv[2])
    with open(os.path.join(folder, "order.json")) as file:
        order = json.load(file)
    write(folder, "started", json.dumps({"keeper": os.getpid(), "command": None}))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not ignored: the command would inherit that
    with open(os.path.join(folder, "output.log"), "ab") as output:
        try:
            command = subprocess.Popen(
                order["command"],
                cwd=order["folder"],
                env=order["environment"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
            )
        except OSError as error:
            output.write(f"error: the command cannot be started: {error}\n".encode())
            write(folder, "exit", "127")
            return
    write(folder, "started", json.dumps({"keeper": os.getpid(), "command": command.pid}))
    write(folder, "exit", str(command.wait()))


def write(folder: str, name: str, text: str) -> None:
    """Write a file whole or not at all, and onto the disk."""
    path = os.path.join(folder, name)
    with open(path + ".new", "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
