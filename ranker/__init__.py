"""The role that compares two videos: rubric, frames, verdict, and the judges (DESIGN 4; paper, appendix C).

The judge is the model inside the ranker: `judges/qwen_vl.py` (vLLM), or a function of the user's
(`judges/function.py`).

    videos --frames--> question --judge--> Reading, in both orders --verdict--> Verdict
"""
