"""vLLM and SGLang: the replica that starts one, and in `host` the keeper that stands between it and Backfill."""
