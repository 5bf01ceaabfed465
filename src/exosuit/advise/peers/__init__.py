"""Other engines on this machine, driven in this process.

`bench --against` measures them interleaved with us; tests take their answers as an oracle. A peer
is never required: each offers `find()`, which answers None where it is not installed.
"""
