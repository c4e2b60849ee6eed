"""Whether the tests can be collected where there is no POSIX."""
