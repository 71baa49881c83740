"""What flows between the roles and where it is kept.

`records.py`   the frozen records that cross a process: the public interface of the project
`tensors.py`   torch tensors <-> bytes, bit for bit (the only file here that imports torch)
`arrow.py`     records <-> Arrow rows, with a versioned schema
`segments.py`  sealed Arrow files: written whole or not at all, checksummed, read memory-mapped
`journal.py`   JSON lines that count once they are on disk
`lock.py`      one writer per folder
`store.py`     the pairs of a folder: segments + manifest, recovery, one writer at a time
`verdicts.py`  candidates + verdict -> pair, and the tally of verdicts
`replay.py`    the buffer between ranker and learner: capacity, staleness, reuse, the batch of a step
"""
