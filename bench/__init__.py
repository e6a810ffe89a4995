"""How fast a cell is, beside its peers: the same load, the same machine, in turns.

`python -m bench --help`. Read `__main__` for what is measured, `_load` for how, `peers` for whom.
"""
