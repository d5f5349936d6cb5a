"""What a process of workers.py runs: takes a Work on its standard input, then chunks, and answers each."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys

from xtune.data.encoding.encode_records import Work, encode_records


def main() -> None:
    """Encode until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    given = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a user's function prints is no answer
    work = None
    gc.set_threshold(100_000, 50, 1000)  # most of what is made here are lists of numbers, in no cycles
    while True:
        try:
            message = pickle.load(given)
        except EOFError:
            return
        if isinstance(message, Work):
            work = message
            gc.freeze()
            continue
        try:
            result = encode_records(message, work)
        except Exception as error:
            result = error
        try:
            pickle.dump(result, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
