"""A child process in which code for GPUs is made, so that an abort of LLVM's is only an error.

LLVM's GPU back ends end the process when they cannot select an instruction. The child starts at
the first GPU compilation, is kept for the next ones and ends with its parent, when its pipe
closes. It also keeps process-wide LLVM options of the CPU's compiler away from the GPUs'.

The pipe carries frames: a length in eight bytes, then a pickle. Request: IR text, target name,
assembly or not. Reply: the code, or what a CompileFailed is made of.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from exosuit.errors import CompileFailed
from exosuit.kernel.target import Target


class Worker:
    """The child, from its parent's side. Any thread may call; one request runs at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        atexit.register(self.close)

    def generate(self, name: str, ir: str, target: Target, assembly: bool = False) -> bytes:
        """The code of kernel `name`; CompileFailed if LLVM refuses it or dies of it."""
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                _send(child.stdin, (ir, target.name, assembly))
                reply: bytes | tuple[str, str, str] = _receive(child.stdout)
            except (OSError, EOFError):
                raise self._post_mortem(name, ir, target) from None
            except BaseException:
                # Ctrl-C: the reply is still to come and must not answer the next request.
                child.kill()
                self.close()
                raise
        if isinstance(reply, bytes):
            return reply
        what, cause, next_ = reply
        raise CompileFailed(what, cause=cause, next=next_, ir=ir)

    def close(self) -> None:
        """End the child; the next request starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        for stream in (child.stdin, child.stdout, self._complaints):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # unsent bytes of a request to a child that died
        child.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from exosuit.kernel import worker; worker.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        return self._child

    def _post_mortem(self, name: str, ir: str, target: Target) -> CompileFailed:
        """Why the child died: LLVM's last words."""
        assert self._child is not None
        assert self._complaints is not None
        status = self._child.wait()
        self._complaints.seek(0)
        words = self._complaints.read().decode(errors="replace").splitlines()
        llvm = [line for line in words if "LLVM ERROR" in line or "Error" in line]
        self.close()
        return CompileFailed(
            f"the compiler of {target.name} died of kernel {name!r} (status {status})",
            cause=llvm[-1] if llvm else (words[-1] if words else "it left no message"),
            next="report it with the kernel: the capability table of exosuit.kernel has a gap",
            ir=ir,
        )


def _send(stream: IO[bytes], message: Any) -> None:
    body = pickle.dumps(message)
    stream.write(len(body).to_bytes(8, "little") + body)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message; EOFError where the other side has gone."""
    size = int.from_bytes(_exactly(stream, 8), "little")
    return pickle.loads(_exactly(stream, size))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    body = stream.read(count)
    if len(body) < count:
        raise EOFError
    return body


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    from exosuit.kernel.codegen import generate

    while True:
        try:
            ir, target, assembly = _receive(requests)
        except EOFError:
            return
        try:
            _send(replies, generate(ir, Target.named(target), assembly))
        except CompileFailed as error:
            _send(replies, (error.what, error.cause, error.next))


def main() -> None:
    """The child's whole life."""
    # What LLVM may print must not get between the frames.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, replies)
