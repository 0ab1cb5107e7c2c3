"""How often the patterns of refusals err on labelled answers: `python -m benchmarks.refusals`."""

from __future__ import annotations

from evaluation.refusals import is_refusal, labelled_answers
from research.provenance import provenance


def main() -> None:
    """Print both kinds of error, and the answers that were misread."""
    rows = labelled_answers()
    for kind, refused in (("refusals taken for answers", True), ("answers taken for refusals", False)):
        texts = [text for text, is_one in rows if is_one == refused]
        wrong = [text for text in texts if is_refusal(text) != refused]
        print(f"{kind}: {len(wrong)} of {len(texts)}")
        for text in wrong:
            print(f"    {text!r}")
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
