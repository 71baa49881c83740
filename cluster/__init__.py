"""The roles joined into a run: the spine, and the rooms for Ray, checks, commands, live figures and reports.

Start with `online_loop.py` (the whole idea on one page), then `stages.py` and `launch.py`. In `on_ray/`, `crew.py`
turns the roles' plain classes into actors and `learner_worker.py` is what each process of the learner runs.
"""
