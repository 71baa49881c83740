"""What flows between the roles and where it is kept.

`records.py`   the frozen records that cross a process: the public interface of the project
`tensors.py`   torch tensors <-> bytes, bit for bit (the only file here that imports torch)
`arrow.py`     records <-> Arrow rows, with a versioned schema
`places.py`    where files lie: a folder, or any filesystem that pyarrow reaches by a URI
`lock.py`      one writer per folder
`segments.py`  sealed Arrow files: written whole or not at all, checksummed, read memory-mapped
`catalog.py`   where each row of a store lies, as an SQLite file that can be made again
`database.py`  SQLite files: opened one way, with errors that name the file
`commits.py`   what an append added, in full but for the payloads
`recovery.py`  what happens when a store is opened: catching up, setting aside
`store.py`     the pairs and anchors of one place: segments + commits, one writer at a time
`verdicts.py`  candidates + verdict -> pair, and the tally of verdicts
`mixing.py`    how many pairs of each source a batch holds
`waiting.py`   the pairs that may still be learned from, and the batches drawn of them
`replay.py`    the buffer between ranker and learner: capacity, staleness, reuse, the batch of a step
`anchors.py`   which labelled video the next generated one is held against

People's own data on its way in, in the order in which it is read:

`manifests.py`       rows, whichever file they lie in
`columns.py`         what columns hold, checked
`entries.py`         a row as an annotator's answer about a pair, a video or a prompt
`fingerprints.py`    what tells one file from another
`gathering.py`       all answers about the same thing, merged
`agreement.py`       majorities, and Fleiss' kappa
`labelled_pairs.py`  the pairs that the judge is taught with
"""
