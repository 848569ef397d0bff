"""Imported last by the process that kernels are forked from, and by no other."""

import atexit
import gc
import os

gc.freeze()  # kernels share what has been imported: a collection in one of them would copy it
atexit.register(os._exit, 0)  # immediately: a process that reads the output of a run would wait for it
