"""A table of reviews, judged: `python examples/table.py`. The built-in engine answers, or that at ENGINE_URL."""

import os

import backfill

REVIEWS = [
    {"id": 1, "text": "Great value, arrived early, would buy again."},
    {"id": 2, "text": "Broke on day two, and nobody answers the phone."},
    {"id": 3, "text": "It does what it says."},
]


def main() -> None:
    """Ask about each row, and print what was answered."""
    answered = backfill.run(
        REVIEWS,
        "Is this review positive or negative? {text}",
        columns="label:enum(positive,negative)",
        parameters={"temperature": 0, "max_tokens": 30},
        engine=os.environ.get("ENGINE_URL"),
        model=os.environ.get("ENGINE_MODEL"),
    )
    for row in answered:
        print(f"{row['id']}: {row['label'] or row['_error']}")


if __name__ == "__main__":
    main()
