#!/usr/bin/env python3
"""Logs a run that `llavar runs export --wandb` has written to Weights & Biases.

    pip install wandb
    python log.py --project receipts            # straight to the server
    python log.py --project receipts --offline  # into ./wandb; later: wandb sync wandb/offline-run-*

Steps keep their numbers. With --id the same run is gone on with: steps that it has already are left alone.
"""

import argparse
import json
import pathlib


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", required=True)
    parser.add_argument("--entity")
    parser.add_argument("--id", help="id of the run there, to go on with it")
    parser.add_argument("--offline", action="store_true")
    args = parser.parse_args()

    import wandb

    here = pathlib.Path(__file__).resolve().parent
    config = json.loads((here / "config.json").read_text())
    summary = json.loads((here / "summary.json").read_text())
    run = wandb.init(
        project=args.project,
        entity=args.entity,
        id=args.id,
        resume="allow" if args.id else None,
        name=summary.pop("name"),
        config=config,
        mode="offline" if args.offline else "online",
        dir=str(here),
    )
    with open(here / "history.jsonl") as lines:
        for line in lines:
            row = json.loads(line)
            step = row.pop("_step")
            if step >= run.step:
                run.log(row, step=step)
    run.summary.update(summary)
    run.finish()


if __name__ == "__main__":
    main()
