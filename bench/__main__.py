"""The command `python -m bench`."""

print("nothing to measure yet")
