"""Pure steps from raw records to alerts: columns in, columns out; no I/O, threads, clocks or globals.

In the order of the data: `decode`, `series`, `windows`, `scoring`, `incidents`; each imports only earlier ones.
"""
