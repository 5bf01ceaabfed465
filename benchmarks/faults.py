"""A thousand seeded schedules of faults on software cards: no hang, no wrong token, ever.

    python benchmarks/faults.py --model stories260K-f32.gguf --family gb202 --out faults.json

Every schedule is a session on a card that fails, and then the next one on the same card; see
`tests/softcard/schedules.py`. Ends with a table of how they ended, and status 1 if one was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.softcard.schedules import FAMILIES, Schedule, Sessions, expected_tokens

from exosuit.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, default="amd")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cache = Settings.from_environment().cache
    family = FAMILIES[arguments.family]
    sessions = Sessions(family, arguments.model, cache, expected_tokens(arguments.model, cache))
    reach, began = sessions.reach(), time.monotonic()
    ends: Counter[str] = Counter()
    cuts = 0
    wrong: list[str] = []
    for seed in range(arguments.first, arguments.first + arguments.count):
        outcome = sessions.run(Schedule.drawn(seed, reach, family))
        ends[outcome.first or "wrong"] += 1
        cuts += outcome.cut
        if outcome.wrong:
            wrong.append(f"{outcome.schedule}: {outcome.first or '-'}, then {outcome.wrong}")
            print(wrong[-1], file=sys.stderr, flush=True)
        elif seed % 20 == 0:
            print(f"{seed}: {dict(ends)}", file=sys.stderr, flush=True)
    document = {
        "family": family.name,
        "schedules": arguments.count,
        "first_seed": arguments.first,
        "accesses_of_a_session": reach,
        "ends": dict(ends.most_common()),
        "power_cycles": cuts,
        "wrong": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }
    text = json.dumps(document, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
