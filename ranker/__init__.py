"""The judge of pairs: rubric, frames, the four-way verdict, and the one file that talks to vLLM (DESIGN 4, appendix C).

Clips --frames--> Footage --rubric, vllm_judge--> Reading (x 2 orders) --verdict--> Verdict
"""
