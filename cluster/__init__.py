"""Where the plain roles become Ray actors and are joined into a run; the only folder that imports ray.

Start with `online_loop.py` (the whole idea on one page). `spawn.py` turns the roles' plain classes into actors,
`train_worker.py` is what each process of the Ray Train group runs, `launch.py` is one run from config to report.
"""
