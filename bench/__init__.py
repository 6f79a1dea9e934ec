"""The load benchmark: `make bench`. README.md says how to read it."""
