"""The benchmark: a cell of synod, Apache ZooKeeper and etcd in turns on one machine, under the same load.

`python -m bench --help`. Read `_rows` first: what is measured; `_load` is the generator, `_zookeeper` and `_etcd`
speak the two protocols, `peers` starts what is measured, `_failover` kills leaders, `_report` prints.
"""
