"""Slow, literal references that the tests compare the library with. None of them uses the library's own code."""
