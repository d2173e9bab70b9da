#!/bin/sh
# A batch with nothing but curl: upload, create, wait, download. BACKFILL_URL names the server.
set -eu

server="${BACKFILL_URL:-http://127.0.0.1:8484}/v1"
input="${1:-examples/requests.jsonl}"

# The value of a string member of a JSON object; jq does it better where it is installed.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

file=$(curl -sSf "$server/files" -F purpose=batch-api -F "file=@$input" | member id)

batch=$(curl -sSf "$server/batches" -H 'Content-Type: application/json' \
    -d "{\"input_file_id\": \"$file\", \"endpoint\": \"/v1/chat/completions\"}" | member id)

status=VALIDATING
while [ "$status" = VALIDATING ] || [ "$status" = IN_PROGRESS ]; do
    sleep 1
    status=$(curl -sSf "$server/batches/$batch" | member status)
    echo "$batch $status" >&2
done

output=$(curl -sSf "$server/batches/$batch" | member output_file_id)
curl -sSf "$server/files/$output/content"
