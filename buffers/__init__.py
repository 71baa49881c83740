"""What flows between the roles, and where it is kept.

Start with `records.py`, the frozen records that cross a process: the public interface of the project. `replay.py`
stands between ranker and learner, `weight_store.py` between learner and generators. `store/` keeps pairs and
anchors on disk; SQL is written there and nowhere else. `people/` reads manifests of people's videos and judgements.
"""
