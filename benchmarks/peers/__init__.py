"""Other libraries on the benchmarks' problems, one module each; all are optional."""
