"""Machine code beside PyTorch, never needed: C written for a field and a method, compiled at use.

A field that small arrays make slow in PyTorch may offer a :class:`gflow.compiled.kernel.Kernel`, a
few lines of C for several rows at once; :mod:`gflow.compiled.compiler` compiles it together with a
method's loop. Without a compiler PyTorch does the same work, and the run's reason says so.
"""
