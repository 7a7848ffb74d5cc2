#!/usr/bin/env python3
"""What TensorBoard itself reads from a log folder: every scalar's count, last step and last value, as JSON.

    python3 check_tensorboard.py LOGDIR
"""
import argparse
import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path)
    logdir = parser.parse_args().logdir
    if not any(logdir.glob("*tfevents*")):
        sys.exit(f"check_tensorboard.py: no event file (*tfevents*) in {logdir}")
    events = EventAccumulator(str(logdir), size_guidance={SCALARS: 0})  # 0 keeps every value
    events.Reload()
    tags = events.Tags()[SCALARS]
    if not tags:
        sys.exit(f"check_tensorboard.py: no scalar in {logdir}")
    rows = {tag: events.Scalars(tag) for tag in sorted(tags)}
    print(json.dumps({t: dict(count=len(r), last_step=r[-1].step, last_value=r[-1].value) for t, r in rows.items()}))


if __name__ == "__main__":
    main()
