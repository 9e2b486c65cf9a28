"""torchrun, and an account of how its ranks ended: `python -m preceptor_services.worker.agent ACCOUNT ARGUMENT...`.

torchrun says in its log which rank ended first and how. A worker has to tell the run's owner, so it is told in JSON:
every rank that failed, with its exit code (negative: the signal that killed it).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(account: Path, arguments: list[str]) -> int:
    """The exit code."""
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        ended = {rank: failure.exitcode for rank, failure in error.failures.items()}
        account.write_text(json.dumps(ended))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
