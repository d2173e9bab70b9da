"""A batch through Together's own SDK. Only `base_url` says that it runs on your hardware."""

# mypy: ignore-errors
# The SDK types every member of a batch as optional; ten lines of a guide are no place to argue with that.

import os
import time

from together import Together

client = Together(base_url=os.environ.get("BACKFILL_URL", "http://127.0.0.1:8484"), api_key="not-needed")

file = client.files.upload(file="examples/requests.jsonl", purpose="batch-api", check=False)
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions").job

while batch.status not in ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED"):
    time.sleep(1)
    batch = client.batches.retrieve(batch.id)

print(client.files.content(batch.output_file_id).text())
